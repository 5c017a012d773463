"""Report a search's results and cost, as facts and as Markdown."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from deepcuts.components.core import cli, escape, files, verdicts
from deepcuts.components.core import markdown as markdown_text
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import text
from deepcuts.components.tune.trials import TrialRecord

LISTED = 10
"""Trials in the report; all are in the table."""


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the lowest loss among those trained longest, as a lucky loss at a low rung does not count."""
    scored = [record for record in records if record.valid_loss is not None]
    return min(scored, key=lambda record: (-record.rung, record.valid_loss, record.number), default=None)


def write(
    search: Search,
    records: Sequence[TrialRecord],
    recipe: Recipe,
    best_recipe: Path,
    trials: Path,
    summary: Path,
) -> Facts:
    """Write the outputs of a finished search; return its facts.

    Raises:
        DataError: no trial has a result.
    """
    found = best(records)
    if found is None:
        last = records[-1].problem if records else "none was started"
        raise DataError(f"all {len(records)} trials failed, the last with: {last}")
    facts = describe(search, records)
    cli.write_json(best_recipe, msgspec.to_builtins(recipe) | found.values)
    with files.staged(trials) as staging:
        staging.write_bytes(msgspec.json.Encoder().encode_lines(records))
    with files.staged(summary) as staging:
        staging.write_text(markdown(facts, records))
    return facts


def describe(search: Search, records: Sequence[TrialRecord]) -> Facts:
    """Return the facts of a search; a unit is the tokens of the first rung."""
    found = best(records)
    assert found is not None
    unit, top = search.levels[0], search.levels[-1]
    spent = [receipt for record in records for receipt in record.receipts]
    configurations = len({record.key for record in records})
    trained, full = sum(record.tokens for record in records) / unit, configurations * top / unit
    return {
        **verdict(trained, full, configurations).facts(),
        "trials": len(records),
        "configurations": configurations,
        "failed": sum(record.state == "failed" for record in records),
        "lost_attempts": sum(record.lost_attempts for record in records),
        "tokens": sum(record.tokens for record in records),
        "unit_tokens": unit,
        "unit_epochs": round(trained, 3),
        "grid_unit_epochs": round(full, 3),
        "restarting_unit_epochs": round(sum(record.budget_tokens for record in records) / unit, 3),
        "trial_cpu_seconds": round(sum(receipt.cpu_seconds for receipt in spent), 3),
        "trial_wall_seconds": round(sum(receipt.wall_seconds for receipt in spent), 3),
        "best_loss": found.valid_loss,
        "best_key": found.key,
        "best_budget_tokens": found.budget_tokens,
    }


def verdict(trained: float, full: float, configurations: int) -> Verdict:
    """Compare the search with training every configuration to the end."""
    grid = f"{trained:.0f} unit-epochs where the full grid of {configurations} takes {full:.0f}"
    if trained < full:
        return Verdict("tune", "applied", f"{grid}: {full / trained:.1f} times fewer")
    return Verdict("tune", "off", f"{grid}: nothing saved, one rung is a grid")


def markdown(facts: Facts, records: Sequence[TrialRecord]) -> str:
    """Render the verdict, and the best trials of the highest rungs."""
    scored = [record for record in records if record.valid_loss is not None]
    scored.sort(key=lambda record: (-record.rung, record.valid_loss or 0.0))
    rows = [
        (f"{record.budget_tokens:,}", f"{record.valid_loss:.4f}", _values(record))
        for record in scored[:LISTED]
    ]
    problems = [
        f"- {_values(record)}: {escape.markdown(record.problem)}"
        for record in records
        if record.state == "failed"
    ]
    return "\n".join(
        [
            f"# Search: best loss {facts['best_loss']:.4f} nats per answer token",
            "",
            f"{verdicts.read(facts)[0].reason}; "
            f"{facts['trials']} trials of {facts['configurations']} configurations, "
            f"{facts['failed']} failed, {facts['trial_cpu_seconds']:,.0f} CPU seconds.",
            "",
            markdown_text.table(("tokens", "loss", "values"), rows),
            *(["", "Failed:", "", *problems] if problems else []),
            "",
        ]
    )


def _values(record: TrialRecord) -> str:
    pairs = (f"{name} {text(value)}" for name, value in sorted(record.values.items()))
    return escape.markdown(", ".join(pairs))
