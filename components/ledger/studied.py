"""Find what a study has measured about a run's training: ``deepcuts ablate`` leaves it in the store.

A claim needs the same training: base, data, seed and recipe by ``training_id``, and every other setting of
the recipe as it was used. Anything else is not known, whatever it resembles.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from deepcuts.components.core import escape
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.receipts import SETTING, Facts
from deepcuts.components.core.run_records import CHAIN
from deepcuts.components.core.scorecards import Comparison
from deepcuts.components.core.store import open_store
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.ledger import formatting
from deepcuts.components.ledger.charges import Charge

FOLDER = "studies/"
"""Prefix of the records in the store."""
OUTAGE_SECONDS = 5.0
"""Longest wait for the store: the ledger matters more than this line of it."""
SAME = ("training_id", "total_tokens", "compiled")
BOOKKEEPING = ("recipe_save_every_seconds", "recipe_keep_checkpoints")
"""Settings that do not bear on the cost of training."""


class StudiedArm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One arm of a study at one budget, against the reference's quality and what that cost."""

    arm: str
    budget_tokens: int
    seeds: int
    train_ratio: float | None
    """The reference's CPU-seconds of training / this arm's, searches charged; above 1 saves."""
    train_ratio_low: float | None
    train_ratio_high: float | None
    """Lowest and highest of the seeds that both have; None if there are fewer than two."""
    comparison: Comparison | None
    """Completion loss against the reference at its largest budget."""
    trainings: list[list[Facts]]
    """Of each trial (``trainings``)."""


class StudyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a study found, for the ledgers of runs."""

    schema: Literal["study/1"]
    study: str
    date: str
    """Day on which its last trial ended (UTC)."""
    reference: str
    arms: list[StudiedArm]


class StudySaving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a study says about a run with the settings of one of its arms."""

    what: str
    saves: bool


class Found(NamedTuple):
    record: StudyRecord
    arm: StudiedArm


def trainings(rows: Sequence[Charge]) -> list[Facts]:
    """Return what each finished training of a run was: its identity, and its recipe as used."""
    return [
        {
            name: value
            for name, value in row.facts.items()
            if name in SAME or name.startswith(SETTING) and name not in BOOKKEEPING
        }
        for row in rows
        if row.step not in (CHAIN, "watch") and row.end_reason == "ok" and "training_id" in row.facts
    ]


def read(store_uri: str) -> list[StudyRecord]:
    """Read the records in a store; what cannot be read is said on stderr and left out."""
    if not store_uri:
        return []
    found = []
    try:
        store = open_store(store_uri, OUTAGE_SECONDS)
        for key in store.list(FOLDER):
            try:
                found.append(msgspec.json.decode(store.get_bytes(key), type=StudyRecord))
            except MALFORMED as error:
                _left_out(f"{store.uri(key)} is not a study of this version ({error}): run the study again")
    except (StoreError, OSError, ValueError) as error:
        _left_out(f"{error}")
    return found


def matching(records: Iterable[StudyRecord], rows: Sequence[Charge]) -> list[Found]:
    """Return the arms with a trial that trained exactly as this run did, newest study first."""
    own = trainings(rows)
    found = [Found(record, arm) for record in records for arm in record.arms if own and own in arm.trainings]
    return sorted(found, key=lambda each: each.record.date, reverse=True)


def savings(records: Sequence[StudyRecord], rows: Sequence[Charge]) -> list[StudySaving]:
    """Return what each study says about this run."""
    return [saving(each) for each in matching(records, rows)]


def saving(found: Found) -> StudySaving:
    """Return the sentence on one arm; quality that is not known to be equal saves nothing."""
    record, arm = found
    source = f"study {record.study} of {record.date}, {arm.seeds} seed{'s'[: arm.seeds > 1]}"
    if arm.arm == record.reference:
        return StudySaving(f"nothing: these settings are the reference, {arm.arm}, of {source}", False)
    compared, ratio = arm.comparison, arm.train_ratio
    if compared is None or ratio is None:
        what = f"not compared: arm {arm.arm} shares no seed with the reference, {record.reference}"
        return StudySaving(f"{what}: {source}", False)
    low, high = formatting.change(compared.low), formatting.change(compared.high)
    interval = f"{formatting.percent(0.9)} interval {low} to {high}"
    quality = f"loss {formatting.change(compared.worse_by)} nats a token, {interval}"
    if not compared.non_inferior:
        verdict = "is worse than" if compared.low > 0 else "is not known to be as good as"
        what = f"nothing at equal quality: it {verdict} the reference, {record.reference} ({quality})"
        return StudySaving(f"{what}: {source}, arm {arm.arm}, {arm.budget_tokens:,} tokens", False)
    spread = ""
    if arm.train_ratio_low is not None and arm.train_ratio_high is not None:
        spread = f" ({_of_plain(arm.train_ratio_high)} to {_of_plain(arm.train_ratio_low)} by seed)"
    what = (
        f"{_of_plain(ratio)} of the training CPU time{spread} of the reference, {record.reference}, "
        f"for the same quality ({quality}): {source}, arm {arm.arm}, {arm.budget_tokens:,} tokens"
    )
    return StudySaving(f"{'took' if ratio > 1 else 'nothing: took'} {what}", ratio > 1)


def _of_plain(ratio: float) -> str:
    """Return an arm's share of the reference's cost, two decimals."""
    return f"{1 / ratio:.2f}"


def _left_out(why: str) -> None:
    print(f"ledger: studies: {escape.terminal(escape.redacted(why))}", file=sys.stderr)
