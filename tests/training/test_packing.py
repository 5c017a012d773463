"""Packed examples against each alone with nothing but transformers, over the types that people fine-tune."""

import random

import pytest
import torch

from deepcuts.components.training import label_choice, packing, scoring
from deepcuts.components.training.batches import IGNORE, MicroBatch, OptimizerStep, micro_batches
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered
from tests.training import tiny, zoo

PACKED = ["llama", "gemma2", "stablelm", "opt", "gpt_neox", "mixtral"]
ALONE = ["bloom", "lfm2", "llama4_text", "falcon_h1"]
"""Examples of these would change each other, on a host without their kernels."""
MORE_PACKED = [
    "mistral",
    "qwen3",
    "gpt2",
    "gemma",
    "gemma3_text",
    "phi",
    "phi3",
    "starcoder2",
    "olmo",
    "olmo2",
]
MORE_PACKED += [
    "olmo3",
    "granite",
    "cohere",
    "cohere2",
    "glm",
    "glm4",
    "smollm3",
    "gptj",
    "gpt_neo",
]
MORE_PACKED += ["gpt_bigcode", "codegen", "nemotron", "helium", "arcee", "exaone4", "seed_oss", "ernie4_5"]
MORE_PACKED += [
    "hunyuan_v1_dense",
    "apertus",
    "qwen3_moe",
    "qwen2_moe",
    "olmoe",
    "phimoe",
    "granitemoe",
    "glm4_moe",
]
MORE_ALONE = ["gpt_oss", "qwen3_next", "qwen3_5_text", "granitemoehybrid", "nemotron_h", "bamba", "jamba"]
MORE_ALONE += ["recurrent_gemma", "mamba", "mamba2", "mpt", "zamba2", "falcon", "minimax", "rwkv"]


def slow(kinds: list[str]) -> list:
    return [pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def data() -> list[Rendered]:
    """Examples of 5 to 40 tokens; some are longer than the windows and chunks of 16."""
    draw = random.Random(0)
    lengths = [9, 5, 40, 21, 12]
    return [
        Rendered([draw.randrange(3, 250) for _ in range(n)], [0] * (n // 2) + [1] * (n - n // 2))
        for n in lengths
    ]


def alone(kind: str) -> list[float]:
    model, nats = zoo.model_of(kind), []
    with torch.inference_mode():
        for rendered in data():
            ids = torch.tensor([rendered.ids])
            scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            chosen = -scores[torch.arange(len(scores)), ids[0, 1:]]
            nats.append(float(chosen[torch.tensor(rendered.mask[1:]).bool()].sum()))
    return nats


def steps_nats(loss: CompletionLoss, packed: bool) -> float:
    """The nats of one step over all examples, as the loop would pass them."""
    examples = data()
    lengths = [len(rendered.ids) for rendered in examples]
    recipe = tiny.recipe(packing=packed)
    step = OptimizerStep(0, tuple(range(len(examples))), 0, sum(lengths), recipe.seq_len)
    with torch.inference_mode():
        return sum(float(loss(*batch)) for batch in micro_batches(step, examples, lengths, recipe, 0, 1))


@pytest.mark.parametrize(
    ("kind", "packed"),
    [(kind, True) for kind in PACKED]
    + [(kind, False) for kind in ALONE]
    + [pytest.param(kind, True, marks=pytest.mark.slow) for kind in MORE_PACKED]
    + [pytest.param(kind, False, marks=pytest.mark.slow) for kind in MORE_ALONE],
)
def test_a_step_trains_what_each_example_says_alone_packed_only_where_that_is_proven(kind, packed):
    torch.set_num_threads(1)
    loss = CompletionLoss(zoo.model_of(kind)).eval()
    verdict = packing.prove(loss, data(), 64)
    assert verdict.packed is packed, verdict
    wanted = alone(kind)
    assert steps_nats(loss, verdict.packed) == pytest.approx(sum(wanted), abs=1e-3)
    scored = [nats for nats, _ in scoring.answer_nats(loss, data())]
    assert scored == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    "kind", ["llama", "lfm2", "qwen3_next", *slow([*MORE_ALONE, "bloom", "gemma2", "gpt2"])]
)
def test_labels_are_chosen_by_their_whole_likelihood_with_and_without_a_shared_cache(tmp_path, kind):
    torch.set_num_threads(1)
    model, labels = zoo.model_of(kind), ["yes", "no", "perhaps so"]
    records = tiny.sums(2)
    for record in records:
        (question,) = label_choice.questions(tiny.TOKENIZER, [record], labels)
        nats, _ = label_choice.nats_one_by_one(model, question)
        loss, asked = CompletionLoss(zoo.model_of(kind)), len(question.prompt)
        tails = [
            Rendered([*question.prompt, *tail], [0] * asked + [1] * len(tail)) for tail in question.tails
        ]
        wanted = [found for found, _ in scoring.answer_nats(loss, tails)]
        assert nats.tolist() == pytest.approx(wanted, abs=1e-3)
        (chosen,), _ = label_choice.choose(model, [question])
        assert wanted[chosen] == pytest.approx(min(wanted), abs=1e-3)


def test_filler_behind_an_example_is_never_scored():
    batch = MicroBatch(torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 4), torch.full((1, 4), IGNORE))
    with torch.no_grad():
        assert float(CompletionLoss(zoo.model_of("llama"))(*batch)) == 0


def test_what_filler_changes_is_no_rounding_and_proves_no_packing():
    """Doge's attention loses its causal mask where no padding asks for one."""
    assert not packing.prove(CompletionLoss(zoo.model_of("doge")).eval(), data(), 64).packed
