"""The planner's bytes against those that torch really holds, over many types of models."""

import random

import msgspec
import pytest
import torch

from deepcuts.components.plan import architecture, memory, sizes
from deepcuts.components.training import adapters
from deepcuts.components.training.batches import IGNORE, MicroBatch
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.memory import MeasuredMemory, measure
from tests.training import tiny, zoo

GIVEN = {"method": "lora", "trainable_embeddings": "no"}
BIG = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 160}
GPT2 = {"n_layer": 3, "n_embd": 64}
CASES = [
    (kind, length, recipe)
    for kind in ("llama", "qwen3", "gpt2")
    for length, recipe in (
        (32, {"method": "full"}),
        (64, {"method": "full", "gradient_checkpointing": True}),
        (128, {"method": "full", "gradient_checkpointing": 2}),
        (64, GIVEN),
        (96, {"method": "lora", "trainable_embeddings": "yes"}),
        (128, GIVEN | {"gradient_checkpointing": True}),
        (48, GIVEN | {"lora_targets": "attention", "lora_rank": 8}),
        (80, GIVEN | {"lora_dropout": 0.1}),
        (64, GIVEN | {"new_token_ids": [5, 262]}),
    )
]
OTHERS = ["gemma2", "bloom", "mixtral", "qwen3_next", "minimax"]
"""Besides those three; the slow test holds the same of more."""
MORE = [
    "mistral",
    "gemma",
    "gemma3_text",
    "phi",
    "phi3",
    "stablelm",
    "starcoder2",
    "olmo2",
    "granite",
    "cohere2",
]
MORE += [
    "glm4",
    "smollm3",
    "opt",
    "gpt_neox",
    "qwen3_moe",
    "lfm2",
    "falcon_h1",
    "qwen3_5_text",
    "olmo_hybrid",
]
MORE += [
    "jamba",
    "mamba",
    "nemotron_h",
    "deepseek_v3",
    "glm4_moe",
    "recurrent_gemma",
    "rwkv",
    "cohere",
    "olmo3",
]
MORE += ["gpt_neo", "hunyuan_v1_moe", "xglm", "ernie4_5", "hunyuan_v1_dense", "granitemoe"]
MORE += ["phimoe", "nemotron", "gptj", "mpt", "persimmon", "qwen2_moe", "olmoe", "arcee"]
MORE += ["helium", "exaone4", "qwen2"]
FEW = ((32, {"method": "full"}), (64, {"method": "full", "gradient_checkpointing": True}), (64, GIVEN))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def packed(rows: int, length: int) -> tuple[MicroBatch, memory.Load]:
    """Rows of examples of 8 to 32 tokens; the second half of each is its answer."""
    draw = random.Random(length)
    ids = torch.randint(1, 200, (rows, length), generator=torch.Generator().manual_seed(0))
    positions, targets = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row in range(rows):
        start = 0
        while start < length:
            size = min(length - start, draw.randint(8, 32))
            positions[row, start : start + size] = torch.arange(size)
            targets[row, start + size // 2 : start + size] = 5
            start += size
    share = float((targets != IGNORE).float().mean())
    return MicroBatch(ids, positions, targets), memory.Load(rows * length, share, 1.05, 4)


def both(kind: str, length: int, given: dict) -> tuple[memory.Memory, MeasuredMemory]:
    recipe = tiny.recipe(**given)
    if kind in tiny.KINDS:
        base = tiny.model(kind, **(GPT2 if kind == "gpt2" else BIG))
    else:
        base = zoo.model_of(kind, **zoo.WIDER.get(kind, {"hidden_size": 64, "intermediate_size": 160}))
    shapes = architecture.parse(base.config.to_dict())
    batch, load = packed(4, length)
    loss = CompletionLoss(adapters.adapt(base, recipe, torch.device("cpu"))).train()
    planned = msgspec.structs.replace(
        recipe, seq_len=length, tokens_per_step=max(length, recipe.tokens_per_step)
    )
    return memory.predict(shapes, planned, load, "single", 1, False, 1.0), measure(loss, batch)


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(CASES, id="usual"),
        pytest.param([(kind, *case) for kind in OTHERS for case in FEW], id="others"),
        pytest.param([(kind, *case) for kind in MORE for case in FEW], id="more", marks=pytest.mark.slow),
    ],
)
def test_predicted_bytes_are_those_measured(cases):
    errors = {}
    for kind, length, given in cases:
        predicted, found = both(kind, length, given)
        pairs = {
            "weights": (predicted.weights, found.weights),
            "gradients": (predicted.gradients, found.gradients),
            "optimizer": (predicted.optimizer, found.optimizer),
            "saved": (predicted.activations + predicted.logits, found.saved),
        }
        errors |= {
            (kind, length, str(given), part): abs(ours - theirs) / theirs
            for part, (ours, theirs) in pairs.items()
        }
    assert len(cases) >= 9
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= 0.08, (worst, errors[worst])
    for part in ("weights", "gradients", "optimizer", "saved"):
        found = [error for key, error in errors.items() if key[-1] == part]
        assert sum(found) / len(found) <= 0.03, (part, sum(found) / len(found))


def test_the_plan_says_which_types_were_never_measured():
    assert {kind for kind, *_ in CASES} | {*OTHERS, *MORE} == sizes.MEASURED
    noted = architecture.parse(zoo.config_of("apertus").to_dict()).tree.notes
    assert any("never compared with measured ones" in note for note in noted)


def test_attention_that_drops_at_random_is_planned_for_examples_as_long_as_a_row():
    """PyTorch's kernels that keep only an output have no dropout on a CPU."""
    base = zoo.model_of("gpt2", attn_pdrop=0.1, n_embd=64, n_layer=3)
    shapes, recipe = architecture.parse(base.config.to_dict()), tiny.recipe(seq_len=64, tokens_per_step=64)
    ids, targets = torch.ones(2, 64, dtype=torch.long), torch.full((2, 64), 5)
    batch = MicroBatch(ids, torch.arange(64).expand(2, -1), targets)
    found = measure(CompletionLoss(adapters.adapt(base, recipe, torch.device("cpu"))).train(), batch).saved
    predicted = memory.predict(shapes, recipe, memory.Load(128, 1.0, 1.0, 4), "single", 1, False, 1.0)
    assert predicted.activations + predicted.logits == pytest.approx(found, rel=0.08)
    assert any("dropout" in note for note in shapes.tree.notes)
