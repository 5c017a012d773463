"""From a base to a release and what comes after, over the types that people fine-tune; makes docs/models.md.

``DEEPCUTS_WRITE=1 pytest tests/training/test_round_trip.py -m 'slow or not slow'`` writes the table again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import FileStore
from deepcuts.components.prune.step import cut
from deepcuts.components.publish.talk import Conversation
from deepcuts.components.quantize import compressed
from deepcuts.components.training import adapters, loop, models, quantized, scoring
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.conftest import ROOT
from tests.training import tiny, zoo

PAGE = ROOT / "docs" / "models.md"
QUICK = ["llama", "gemma2", "gpt2", "phi3", "bloom", "mixtral", "lfm2", "gpt_oss"]
SLOW = [
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma3_text",
    "phi",
    "stablelm",
    "starcoder2",
    "olmo2",
    "granite",
]
SLOW += ["cohere2", "glm4", "smollm3", "opt", "gpt_neox", "falcon", "qwen3_moe", "llama4_text", "qwen3_next"]
SLOW += [
    "falcon_h1",
    "nemotron_h",
    "granitemoehybrid",
    "recurrent_gemma",
    "mamba2",
    "helium",
    "seed_oss",
    "arcee",
    "exaone4",
]
SLOW += ["cohere", "olmo", "olmo3", "ernie4_5", "hunyuan_v1_dense", "glm4_moe", "granitemoe", "phimoe"]
SLOW += ["nemotron", "gptj", "gpt_bigcode", "mpt", "persimmon", "rwkv", "mamba", "jamba", "bamba", "zamba2"]
SLOW += ["qwen2_moe", "deepseek_v3", "minimax", "qwen3_5_text", "olmo_hybrid", "ministral3"]
SLOW += ["gemma4_unified_text", "biogpt", "xglm", "afmoe", "apertus", "openai-gpt", "ctrl", "hrm_text"]
SLOW += ["glm4_moe_lite", "youtu", "qwen3_5_moe_text", "glm_moe_dsa"]
FEW = 8
"""Types that one slow test takes the whole way: a few minutes on one core."""
TIED = {"gemma2", "gpt2", "qwen2", "gemma", "gemma3_text", "cohere2", "smollm3", "opt", "bloom", "falcon"}
HEAD = ("model_type", "examples share rows", "LoRA leaves out", "depth", "width", "w8a8")


class RoundTrip(NamedTuple):
    kind: str
    packed: str
    left_out: str
    depth: str
    width: str
    w8a8: str

    def line(self) -> str:
        return "| " + " | ".join([f"`{self.kind}`", *self[1:]]) + " |"


def test_a_release_reloads_in_a_fresh_process_and_is_pruned_quantized_and_talked_to(tmp_path):
    assert_trips(QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(SLOW), FEW), ids=lambda first: SLOW[first])
def test_more_types_make_the_same_way(tmp_path, first):
    assert_trips(SLOW[first : first + FEW], tmp_path)


def assert_trips(kinds: list[str], folder: Path) -> None:
    """Every type goes all the way, and docs/models.md says what it can."""
    torch.set_num_threads(1)
    rows = {kind: trip(kind, folder / kind) for kind in kinds}
    code = "import sys; from tests.training.test_round_trip import reload; reload(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(folder / kind) for kind in kinds)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    again = json.loads(done.stdout.splitlines()[-1])
    for kind in kinds:
        before = torch.load(folder / kind / "logits.pt")
        assert torch.allclose(torch.tensor(again[kind]), before, atol=1e-5), kind
    if os.environ.get("DEEPCUTS_WRITE"):
        write(rows)
    table = PAGE.read_text().splitlines()
    assert [row.line() for row in rows.values() if row.line() not in table] == []


def trip(kind: str, folder: Path) -> RoundTrip:
    base = zoo.base_of(folder / "base", kind, tie_word_embeddings=kind in TIED)
    network, tokenizer = models.load_base(base)
    tied, rows = models.is_tied(network), network.get_input_embeddings().num_embeddings
    assert tied == (kind in TIED)
    recipe = tiny.recipe(method="lora", budget_tokens=1280, tokens_per_step=128, trainable_embeddings="no")
    left_out = adapters.left_out(network)
    adapted = adapters.adapt(network, recipe, torch.device("cpu"))
    assert not [name for name, _ in adapted.named_parameters() if "lora" in name and ".gate." in name]
    loss, data = CompletionLoss(adapted), scoring.render_all(tiny.sums(40), tokenizer)
    checkpoints = Checkpoints(FileStore(folder / "store"), "run", 1)
    outcome = loop.train(loss, data, recipe, Accelerator(), checkpoints, say=lambda text: None)
    assert outcome.progress.step >= 9
    trained = scoring.mean_nats(loss, data)
    models.save(adapted, tokenizer, base, folder / "adapter", torch.float32)
    merged, _ = models.load(folder / "adapter", base)
    assert scoring.mean_nats(CompletionLoss(merged), data) == pytest.approx(trained, abs=1e-3)
    models.save(merged, tokenizer, base, folder / "whole", torch.float32)
    whole, _ = models.load_base(folder / "whole")
    assert torch.allclose(logits(whole), logits(merged), atol=1e-5)
    assert models.is_tied(whole) == tied and whole.get_input_embeddings().num_embeddings == rows
    torch.save(logits(whole), folder / "logits.pt")
    talk = Conversation(folder / "whole", 0.0, 4, 0)
    assert all(
        token < len(tokenizer) for token in tokenizer(talk.answer("1+1?", lambda text: None))["input_ids"]
    )
    return RoundTrip(
        kind,
        "yes" if outcome.packing.packed else "no",
        left_out or "nothing",
        *(attempt(folder, method, data) for method in ("random-depth", "width")),
        w8a8(folder, data),
    )


def attempt(folder: Path, method: str, data) -> str:
    """``yes``, or why this type cannot be cut so."""
    whole, tokenizer = models.load_base(folder / "whole")
    try:
        smaller, _ = cut(whole, data[:4], method, 0.5, 0)
    except ValueError as error:
        assert "set method to depth" in str(error) or "quantize it instead" in str(error)
        return "no"
    models.save(smaller, tokenizer, folder / "base", folder / method, torch.float32)
    again, _ = models.load_base(folder / method)
    assert torch.allclose(logits(again), logits(smaller), atol=1e-5)
    return "yes"


def w8a8(folder: Path, data) -> str:
    """``yes``, or ``no`` where llmcompressor has no format for its layers or writes what does not load."""
    whole, tokenizer = models.load_base(folder / "whole")
    reference = scoring.mean_nats(CompletionLoss(whole), data)
    (folder / "w8a8").mkdir()
    try:
        compressed.write(whole, "w8a8", 32, [], folder / "w8a8", torch.float32)
        tokenizer.save_pretrained(folder / "w8a8")
        again, _ = models.load(folder / "w8a8", folder / "base")
    except (quantized.Unsupported, DataError) as error:
        assert any(why in str(error) for why in ("no nn.Linear", "not support this", "weights are missing"))
        return "no"
    assert scoring.mean_nats(CompletionLoss(again), data) == pytest.approx(reference, abs=0.1)
    return "yes"


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(3, 15)[None], use_cache=False).logits[0].clone()


def reload(*folders: str) -> None:
    """Print the logits of releases, as a process sees them that has trained nothing."""
    found = {Path(f).name: logits(models.load_base(Path(f) / "whole")[0]).tolist() for f in folders}
    print(json.dumps(found))


def write(rows: dict[str, RoundTrip]) -> None:
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    kept = [line for line in lines if line.startswith("| `") and line.split("`")[1] not in rows]
    table = sorted([*kept, *(row.line() for row in rows.values())])
    head = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    text = (Path(__file__).parent / "models_page.md").read_text()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text + "\n" + "\n".join([*head, *table]) + "\n")
