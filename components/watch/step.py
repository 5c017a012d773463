"""Watch: score a training run's checkpoints while it trains, on cheaper hardware (cut 11)."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deepcuts.components.core import cli, files, scorecards
from deepcuts.components.core.bounds import Positive, Whole
from deepcuts.components.core.markdown import table
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import data_tokens
from deepcuts.components.watch.history import Scored
from deepcuts.components.watch.watcher import Ending, Watcher


def watch(
    base: Path,
    train: Path,
    valid: Path,
    scores: Path,
    curve: Path,
    summary: Path,
    store: str,
    recipe: Recipe,
    patience: Whole,
    poll_seconds: Positive,
    start_seconds: Positive,
    stale_seconds: Positive,
) -> Facts:
    """Score the checkpoints of the training that ``finetune`` runs with the same inputs, newest first.

    It ends with the trainer, or without its heartbeat: none within ``start_seconds``, or none for
    ``stale_seconds`` after the last one. After ``patience`` scores in a row without a significant gain it
    asks the trainer to stop (0: never). ``scores`` gets a Scorecard per step and ``skipped.json``; ``curve``
    one JSON record per score, ``summary`` the same as a table. Started again, it resumes. With an empty
    ``valid`` it does nothing.
    """
    began = time.monotonic()
    recipe = data_tokens.settled(recipe, train, base)
    watcher = Watcher(base, train, valid, store, recipe, patience)
    ending = watcher.run(poll_seconds, start_seconds, stale_seconds)
    skipped = watcher.skipped()
    with files.staged(scores) as folder:
        folder.mkdir()
        for scored in watcher.history.scored:
            scorecards.write(folder / f"step-{scored.step:08d}", scored.card, scored.scores)
        cli.write_json(folder / "skipped.json", skipped)
    with files.staged(curve) as staging:
        points = [{"tokens": s.tokens, "loss": s.loss, "step": s.step} for s in watcher.history.scored]
        staging.write_bytes(msgspec.json.Encoder().encode_lines(points))
    with files.staged(summary) as staging:
        staging.write_text(markdown(watcher.history.scored, len(skipped), ending))
    return describe(watcher, ending) | {
        "skipped_checkpoints": len(skipped),
        "waiting_seconds": round(time.monotonic() - began - watcher.scoring_seconds, 3),
    }


def markdown(scored: Sequence[Scored], skipped: int, ending: Ending) -> str:
    """Return the scores as a table with the best one marked."""
    best = min(scored, key=lambda each: each.loss, default=None)
    rows = [
        (f"**{each.step}**" if each is best else each.step, f"{each.tokens:,}", f"{each.loss:.4f}")
        for each in scored
    ]
    found = table(("step", "tokens", "completion loss"), rows, right=(0, 1, 2)) if rows else "No score."
    return (
        f"# Scores during training\n\n{found}\n\n"
        f"{skipped} checkpoints were skipped for newer ones; the watch ended with: {ending}.\n"
    )


def describe(watcher: Watcher, ending: Ending) -> Facts:
    """Return the facts of a watch; seconds and tokens are this process's."""
    scored = watcher.history.scored
    best = watcher.history.best if scored else None
    return {
        "training_id": watcher.training_id,
        "ended_because": ending,
        "tokens": watcher.tokens,
        "scored_checkpoints": len(scored),
        "skipped_for_cost": len(watcher.unpaid - {each.step for each in scored}),
        **watcher.sample,
        "scoring_seconds": round(watcher.scoring_seconds, 3),
        "asked_to_stop": watcher.asked_to_stop,
        "best_step": best.step if best else None,
        "best_loss": best.loss if best else None,
    }


if __name__ == "__main__":
    cli.main(watch)
