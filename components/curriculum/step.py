"""Curriculum: order the examples of a cut for training, from the easiest to all (cut 7)."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deepcuts.components.core import cli, epochs, escape, examples, files, strict
from deepcuts.components.core.bounds import Count, Seed
from deepcuts.components.core.examples import Example
from deepcuts.components.core.markdown import table
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.curriculum import difficulty
from deepcuts.components.curriculum.pacing import Pacing, draw, share

NONE = "none"
DIFFICULTY_SIGNALS = (NONE, "length", "loss", "compression", "diversity", "column", "random")


def curriculum(
    base: Path,
    cut: Path,
    curriculum: Path,
    report: Path,
    difficulty_signal: str,
    pacing: Pacing,
    phases: Count,
    recipe: Recipe,
    seed: Seed,
) -> Facts:
    """Write ``curriculum``: the examples of ``cut`` in training order, with difficulty and phase.

    It is as long as the run, ``recipe.budget_tokens`` or its epochs of ``cut``. ``difficulty_signal`` is
    length (tokens), loss (of ``base``), compression, diversity, column (the difficulty stored in examples),
    or random, the control with the same pacing. none passes the cut on unchanged.

    Raises:
        ValueError: the difficulty signal is unknown, or the recipe would shuffle the curriculum.
        DataError: an example has no difficulty for column, or scores are not finite.
    """
    check(difficulty_signal, recipe)
    records = examples.read(cut)
    if difficulty_signal == NONE:
        examples.write(curriculum, records)
        with files.staged(report) as staging:
            staging.write_text(f"# Curriculum\n\nNone: {len(records):,} examples as they were.\n")
        return {"examples": len(records), "data_digest": files.digest(curriculum)}
    # imported here: transformers takes 8 CPU-seconds, which a run without a curriculum (the default) saves
    from deepcuts.components.curriculum import difficulty_signals

    data = difficulty_signals.rendered(base, records)
    lengths = [len(rendered.ids) for rendered in data]
    budget_tokens = epochs.settled(recipe, sum(lengths)).budget_tokens
    began = time.monotonic()
    hard = difficulty_signals.measure(difficulty_signal, records, data, base, seed)
    seconds = round(time.monotonic() - began, 3)
    order = sorted(range(len(records)), key=lambda row: (hard[row], records[row].id))
    drawn = draw(order, lengths, pacing, phases, budget_tokens, seed)
    examples.write(
        curriculum,
        (msgspec.structs.replace(records[row], difficulty=hard[row], phase=phase) for row, phase in drawn),
    )
    with files.staged(report) as staging:
        staging.write_text(
            page(records, hard, order, lengths, drawn, difficulty_signal, pacing), encoding="utf-8"
        )
    seen = Counter(row for row, _ in drawn)
    return {
        **Verdict("curriculum", "applied", f"{difficulty_signal}, {pacing} pacing, {phases} phases").facts(),
        "examples": len(records),
        "drawn": len(drawn),
        "tokens": sum(lengths[row] for row, _ in drawn),
        "never_drawn": len(records) - len(seen),
        "most_repeats": max(seen.values()),
        "scoring_tokens": sum(lengths) if difficulty_signal == "loss" else 0,
        "signal_seconds": seconds,
        "data_digest": files.digest(curriculum),
    }


def check(difficulty_signal: str, recipe: Recipe) -> None:
    """Raise ValueError unless ``difficulty_signal`` exists and the recipe keeps its order."""
    if difficulty_signal not in DIFFICULTY_SIGNALS:
        unknown = strict.unknown_key("", difficulty_signal, DIFFICULTY_SIGNALS)
        raise ValueError(unknown.replace("unknown key", "unknown difficulty_signal"))
    if difficulty_signal != NONE and recipe.order != "given":
        raise ValueError(
            f"difficulty_signal {difficulty_signal} with recipe.order {recipe.order}: training would not "
            "follow it; set recipe.order to given"
        )


def page(
    records: Sequence[Example],
    hard: Sequence[float],
    order: Sequence[int],
    lengths: Sequence[int],
    drawn: Sequence[tuple[int, int]],
    difficulty_signal: str,
    pacing: Pacing,
) -> str:
    """Return the report: figures of the phases, and the easiest and hardest examples."""
    phases = drawn[-1][1] + 1
    rows = []
    for phase in range(phases):
        mine = [row for row, its in drawn if its == phase]
        mean = sum(hard[row] for row in mine) / max(1, len(mine))
        tokens = sum(lengths[row] for row in mine)
        open_share = share(pacing, phase, phases)
        rows.append((phase, f"{open_share:.0%}", f"{len(mine):,}", f"{tokens:,}", f"{mean:.4g}"))
    head = ("phase", "easiest open", "examples", "tokens", "mean difficulty")
    return (
        "\n\n".join(
            [
                "# Curriculum",
                f"By {difficulty_signal}, {pacing} pacing.",
                table(head, rows, right=range(5)),
                "## The easiest",
                "\n".join(_line(records[row], hard[row]) for row in order[:5]),
                "## The hardest",
                "\n".join(_line(records[row], hard[row]) for row in order[:-6:-1]),
            ]
        )
        + "\n"
    )


def _line(example: Example, hard: float) -> str:
    return f"- {hard:.4g} {escape.code(' '.join(difficulty.said(example).split())[:160])}"


if __name__ == "__main__":
    cli.main(curriculum)
