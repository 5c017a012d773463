"""Examples, the model and what ``plan`` predicts, before anything is trained."""

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import examples, nodepools
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan import architecture, choice
from deepcuts.components.plan.choice import PlanTask
from deepcuts.components.plan.step import apply, named
from deepcuts.components.training import models, scoring
from deepcuts.pipelines.command import gpus, init
from tests.benchmarks.gpu import processes
from tests.benchmarks.gpu.processes import Data, Ended
from tests.conftest import ROOT

TINY = ROOT / "pipelines" / "examples" / "base"
SMOLLM2 = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"
"""Where ``make run-real`` puts it too."""
VALID = 32
"""As many as the step scores in any case: a mean of fewer says little."""
LONGEST = 400
"""Tokens of an example for the bundled base; SmolLM2 takes fewer, with the system prompt of its template."""
INSTRUCTION = (
    "You answer the customers of Tallowmere, a small shop. Answer in two or three sentences, use the name "
    "and the order number that the customer gave, promise nothing that the shop cannot keep, and say what "
    "happens next."
)
"""Before every conversation, as people put one there: what shared prefixes have to share."""


def write_examples(folder: Path, count: int) -> tuple[Path, Path]:
    """Write ``count`` bundled conversations to train on and ``VALID`` others to score."""
    tokenizer = models.load_tokenizer(TINY)
    found = []
    for example in _conversations():
        if len(scoring.render_all([example], tokenizer)[0].ids) <= LONGEST:
            found.append(example)
        if len(found) == count + VALID:
            break
    train, valid = folder / "train.jsonl", folder / "valid.jsonl"
    examples.write(valid, found[:VALID])
    examples.write(train, found[VALID:])
    return train, valid


def _conversations() -> Iterator[Example]:
    """Yield the bundled conversations; rows that are malformed on purpose are passed over."""
    with (ROOT / "pipelines/examples/support.jsonl").open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                said = [(turn["role"], turn["content"]) for turn in json.loads(line)["messages"]]
            except (ValueError, KeyError, TypeError):
                continue
            if [role for role, _ in said] == ["user", "assistant"] and all(text for _, text in said):
                turns = tuple(Message(role, text) for role, text in said)
                yield Example(f"{number}", (Message("system", INSTRUCTION), *turns))


def make_base(base: Path, log: Path, seconds: float) -> Ended | None:
    """Make SmolLM2-135M-Instruct unless it is there; None then."""
    if (base / "model.safetensors").exists():
        return None
    argv = [sys.executable, "-m", "deepcuts.pipelines.examples.smollm2", str(base)]
    return processes.run(argv, log, seconds, dry=False)


def answer_share(data: Data) -> float:
    """Return the share of tokens that carry loss, as the base's tokenizer cuts them."""
    rendered = scoring.render_all(examples.read(data.train), models.load_tokenizer(data.base))
    return sum(sum(one.mask) for one in rendered) / sum(len(one.ids) for one in rendered)


def pool(device: dict[str, Any] | None, folder: Path) -> NodePool:
    """Return the pool that ``deepcuts init`` writes for this machine: its GPU, or its processor.

    A card that is not in its table has the memory that the driver reports, and no rate: plan has no hours.
    """
    model = gpus.in_table(f"{device['name']}, {device['memory_bytes'] // 2**20}") if device else ""
    path = folder / "nodepools.yaml"
    path.write_text(init.nodepools_yaml(gpus.named(model) if model else None, None, datetime.date.min))
    found = nodepools.read(path)["gpu" if device else "cpu"]
    if device and not model:
        found = msgspec.structs.replace(
            found,
            accelerator_model=device["name"],
            accelerator_memory_bytes=device["memory_bytes"],
            flops_per_second=None,
            memory_bytes_per_second=None,
        )
    return found


def predict(
    base: Path, recipe: Recipe, pool: NodePool, answer_share: float
) -> tuple[Recipe, dict[str, Any] | None]:
    """Return the recipe as ``plan`` hands it on for ``pool``, and what it predicts; None where it cannot run.

    Of plan's options the one with the recipe's own checkpointing, so that each arm is what its name says.
    """
    task = PlanTask(architecture.read(base), recipe, answer_share)
    for option in choice.options(task, {pool.name: pool}):
        if bool(option.gradient_checkpointing) == bool(recipe.gradient_checkpointing):
            return apply(recipe, option), named(option)
    return recipe, None


def compared(found: dict[str, Any], steps: int | None) -> dict[str, Any]:
    """Return the figures of a prediction that a run of ``steps`` can be held against."""
    memory, estimate = found["memory"], found["estimate"]
    made = {
        "way": found["strategy"],
        "micro_batch_size": found["micro_batch_size"],
        "total_bytes": memory["total"],
        "allocated_bytes": memory["total"] - memory["runtime"],
    }
    if estimate:
        made |= {name: estimate[name] for name in ("hours_p50", "hours_p90")}
    if estimate and steps:
        made["train_seconds_p50"] = estimate["seconds_per_step"] * steps
    return made
