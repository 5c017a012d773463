"""Curriculum: the examples of a cut in training order, from easy to all (cut 7)."""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from components.core import cli, examples, files, strict
from components.core.errors import DataError
from components.core.examples import Example
from components.core.receipts import Facts
from components.core.recipe import Recipe
from components.curriculum import difficulty
from components.curriculum.pacing import Pacing, draw, share
from components.training import models, scoring
from components.training.losses import AnswerLoss
from components.training.render import Rendered

NONE = "none"
SIGNALS = (NONE, "length", "loss", "compression", "diversity", "column", "random")


def curriculum(
    base: Path,
    cut: Path,
    curriculum: Path,
    report: Path,
    signal: str,
    pacing: Pacing,
    phases: Annotated[int, Meta(ge=1)],
    recipe: Recipe,
    seed: Annotated[int, Meta(ge=0)],
) -> Facts:
    """Write ``curriculum``: the examples of ``cut`` in training order, with difficulty and phase.

    It is as long as the run, ``recipe.budget_tokens``. ``signal`` is what is hard: length (tokens), loss (of
    ``base``), compression, diversity, column (the difficulty that examples bring along) or random: the
    control, same pacing without meaning. none hands the cut on as it is.

    Raises:
        ValueError: unknown signal, or a recipe that would shuffle the curriculum away.
        DataError: an example without difficulty for column, or scores that are not finite.
    """
    check(signal, recipe)
    records = examples.read(cut)
    if signal == NONE:
        examples.write(curriculum, records)
        with files.staged(report) as staging:
            staging.write_text(f"# Curriculum\n\nNone: {len(records):,} examples as they were.\n")
        return {"examples": len(records), "data_digest": files.digest(curriculum)}
    data = scoring.render_all(records, models.load_tokenizer(base))
    lengths = [len(rendered.ids) for rendered in data]
    began = time.monotonic()
    hard = measure(signal, records, data, base, seed)
    seconds = round(time.monotonic() - began, 3)
    order = sorted(range(len(records)), key=lambda row: (hard[row], records[row].id))
    drawn = draw(order, lengths, pacing, phases, recipe.budget_tokens, seed)
    examples.write(
        curriculum,
        (msgspec.structs.replace(records[row], difficulty=hard[row], phase=phase) for row, phase in drawn),
    )
    with files.staged(report) as staging:
        staging.write_text(page(records, hard, order, lengths, drawn, signal, pacing), encoding="utf-8")
    seen = Counter(row for row, _ in drawn)
    return {
        "cut_curriculum": f"{signal}, {pacing} pacing, {phases} phases",
        "examples": len(records),
        "drawn": len(drawn),
        "tokens": sum(lengths[row] for row, _ in drawn),
        "never_drawn": len(records) - len(seen),
        "most_repeats": max(seen.values()),
        "scoring_tokens": sum(lengths) if signal == "loss" else 0,
        "signal_seconds": seconds,
        "data_digest": files.digest(curriculum),
    }


def check(signal: str, recipe: Recipe) -> None:
    """Raises ValueError unless ``signal`` exists and the recipe keeps its order."""
    if signal not in SIGNALS:
        raise ValueError(strict.unknown_key("", signal, SIGNALS).replace("unknown key", "unknown signal"))
    if signal != NONE and recipe.order != "given":
        raise ValueError(
            f"signal {signal} with recipe.order {recipe.order}: training would not follow it; "
            "set recipe.order to given"
        )


def measure(
    signal: str, records: Sequence[Example], data: Sequence[Rendered], base: Path, seed: int
) -> list[float]:
    """Difficulty of each example; higher is harder."""
    match signal:
        case "length":
            return [float(len(rendered.ids)) for rendered in data]
        case "loss":
            return base_loss(base, records, data)
        case "compression":
            return [difficulty.compression(difficulty.said(record)) for record in records]
        case "diversity":
            return [difficulty.diversity(difficulty.said(record)) for record in records]
        case "column":
            return difficulty.given(records)
        case _:
            return [chance(record.id, seed) for record in records]


def base_loss(base: Path, records: Sequence[Example], data: Sequence[Rendered]) -> list[float]:
    """Nats per answer token of the base model."""
    network, _ = models.load_base(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device=device, dtype=models.resolve_precision("auto", device))
    nats = [total / tokens for total, tokens in scoring.answer_nats(AnswerLoss(network), data)]
    bad = [record.id for record, value in zip(records, nats, strict=True) if not math.isfinite(value)]
    if bad:
        raise DataError(
            f"the base model gives {len(bad)} examples no finite loss (first: {bad[0]!r}): check the base's "
            "weights, or choose another signal"
        )
    return nats


def chance(id: str, seed: int) -> float:
    """A number from 0 to 1 that hangs on id and seed only."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:7]) / 2**56


def page(
    records: Sequence[Example],
    hard: Sequence[float],
    order: Sequence[int],
    lengths: Sequence[int],
    drawn: Sequence[tuple[int, int]],
    signal: str,
    pacing: Pacing,
) -> str:
    """The phases in numbers, and the easiest and the hardest examples."""
    phases = drawn[-1][1] + 1
    rows = []
    for phase in range(phases):
        mine = [row for row, its in drawn if its == phase]
        mean = sum(hard[row] for row in mine) / max(1, len(mine))
        tokens = sum(lengths[row] for row in mine)
        open_share = share(pacing, phase, phases)
        rows.append(f"| {phase} | {open_share:.0%} | {len(mine):,} | {tokens:,} | {mean:.4g} |")
    return (
        "\n\n".join(
            [
                "# Curriculum",
                f"By {signal}, {pacing} pacing.",
                "| phase | easiest open | examples | tokens | mean difficulty |\n|--:|--:|--:|--:|--:|\n"
                + "\n".join(rows),
                "## The easiest",
                "\n".join(_line(records[row], hard[row]) for row in order[:5]),
                "## The hardest",
                "\n".join(_line(records[row], hard[row]) for row in order[:-6:-1]),
            ]
        )
        + "\n"
    )


def _line(example: Example, hard: float) -> str:
    text = " ".join(difficulty.said(example).split())[:160].replace("`", "'")
    return f"- {hard:.4g} `{text}`"


if __name__ == "__main__":
    cli.main(curriculum)
