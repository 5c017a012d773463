"""Charges: price every attempt of every task, from receipts and node pools to rows and totals."""

import datetime
import glob
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepcuts.components.core import pricing
from deepcuts.components.core import receipts as receipt_files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.receipts import Facts, Receipt
from deepcuts.components.core.strict import MALFORMED

NO_RECEIPT = "no receipt"
NO_CUT = "no cut"
CUTS = {
    "fetch": "fine-tune, don't pretrain",
    "finetune": "fine-tune, don't pretrain",
    "warmstart": "warm start",
    "prune": "prune, quantize",
    "quantize": "prune, quantize",
    "curriculum": "curriculum",
    "distill": "distill",
    "tune": "search, retraining",
    "tune_katib": "search, retraining",
    "retrain": "search, retraining",
    "plan": "right-sizing",
    "watch": "asynchronous evaluation",
    "select": "data selection",
}
"""The cut that a step implements; LoRA, checkpointing and compilation are inside ``finetune``."""
MAX_ATTEMPTS = 1000
"""A higher attempt number means a broken receipt; unlimited, it would create as many rows."""


class Quantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    node_seconds: float
    cpu_seconds: float
    device_seconds: float
    peak_resident_bytes: int
    peak_device_bytes: int


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Price of one node."""

    usd_per_hour: float
    source: str
    date: str


class Charge(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"start": "ChargePeriodStart", "end": "ChargePeriodEnd", "usd": "EffectiveCost"},
):
    """One attempt of one task; with FOCUS's column names where they exist."""

    task: str
    step: str
    cut: str
    attempt: int
    pool: str
    capacity: Literal["on-demand", "spot", "unknown"]
    start: str | None
    """UTC, ISO 8601."""
    end: str | None
    end_reason: str
    """As in the receipt, or ``no receipt``."""
    quantity: Quantity | None
    price: Price | None
    usd: float | None
    """``node_seconds`` x ``usd_per_hour`` of the whole node. Null is unknown, never 0."""
    unknown_because: str | None
    tokens: int | None
    facts: Facts
    reused: bool = False
    """Made and paid for in an earlier run."""
    message: str = ""
    """Why an attempt did not end well."""


class Total(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    usd: float | None
    """Sum of the known charges; null if there are charges but none is known."""
    unknown: int
    """Number of charges of unknown cost; if not 0, ``usd`` is a lower bound."""
    node_seconds: float
    tokens: int


def read_receipts(path: Path) -> list[Receipt]:
    """Return a task's receipts: its own with those of failed attempts next to it, or a folder of trials'."""
    if path.is_dir():
        return [receipt_files.read(name) for name in sorted(path.rglob("*")) if name.is_file()]
    earlier = sorted(path.parent.glob(f"{glob.escape(path.name)}.attempt-*"))
    return [receipt_files.read(name) for name in [*earlier, path] if name.exists()]


def charges(
    receipts: Mapping[str, Sequence[Receipt]],
    pools: Mapping[str, NodePool],
    reused: Container[str] | None = None,
) -> list[Charge]:
    """Return one row per attempt; without a receipt its cost is unknown, not zero, as it was paid for, too.

    Args:
        receipts: Receipts of the attempts by task name, in any order; empty if the task left none.
        pools: Node pools by name.
        reused: Tasks that an earlier run paid for, if ``receipts`` are the records of a run, which include
            lost attempts; without it, a gap in the attempt numbers counts as a lost attempt.

    Raises:
        DataError: a receipt is impossible (time not ISO 8601, negative seconds, attempt 0).
    """
    rows = []
    for task, attempts in receipts.items():
        found = [_charge(task, receipt, pools) for receipt in attempts]
        last = max((row.attempt for row in found), default=1)
        lost = sorted(set(range(1, last + 1)) - {row.attempt for row in found}) if reused is None else []
        rows += sorted(found + [_lost(task, attempt) for attempt in lost], key=lambda row: row.attempt)
    return [msgspec.structs.replace(row, reused=row.task in (reused or ())) for row in rows]


def to_focus_row(row: Charge) -> dict[str, Any]:
    """Return a line of ``ledger.jsonl``: the charge, with FOCUS 1.2 columns for cost tools.

    ``BilledCost`` is null, as no invoice has been compared.
    """
    seconds = row.quantity.node_seconds if row.quantity else None
    columns: dict[str, Any] = msgspec.to_builtins(row)
    return columns | {
        "BilledCost": None,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{row.task}, attempt {row.attempt}: {row.end_reason}",
        "ConsumedQuantity": seconds,
        "ConsumedUnit": "Seconds",
        "ContractedUnitPrice": row.price.usd_per_hour if row.price else None,
        "PricingQuantity": None if seconds is None else round(seconds / 3600, 9),
        "PricingUnit": "Hours",
        "ResourceName": row.pool,
    }


def read(path: Path) -> list[Charge]:
    """Read the charges of a ``ledger.jsonl``, without the FOCUS columns.

    Raises:
        FileNotFoundError, DataError: the file does not exist, or is not a ledger.
    """
    try:
        return msgspec.json.Decoder(Charge).decode_lines(path.read_bytes())
    except MALFORMED as error:
        raise DataError(f"{path} is not a ledger of this version ({error}): run it again") from error


def total(rows: Iterable[Charge]) -> Total:
    """Return the sum of known charges and the number of unknown ones."""
    rows = list(rows)
    known = [row.usd for row in rows if row.usd is not None]
    return Total(
        usd=round(math.fsum(known), 6) if known or not rows else None,
        unknown=len(rows) - len(known),
        node_seconds=round(math.fsum(row.quantity.node_seconds for row in rows if row.quantity), 3),
        tokens=sum(row.tokens or 0 for row in rows),
    )


def totals(rows: Iterable[Charge], key: Callable[[Charge], str]) -> dict[str, Total]:
    """Return ``total`` of each group, groups in order of appearance."""
    groups: dict[str, list[Charge]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return {name: total(group) for name, group in groups.items()}


def _charge(task: str, receipt: Receipt, pools: Mapping[str, NodePool]) -> Charge:
    start, end = _period(task, receipt)
    pool = pools.get(receipt.pool)
    price, unknown_because = None, None
    if pool is None:
        known = f"pool {receipt.pool!r} is not among the node pools"
        unknown_because = "its receipt names no node pool" if receipt.pool == "unknown" else known
    elif pool.usd_per_hour is None:
        unknown_because = f"pool {pool.name!r} has no price"
    else:
        price = Price(pool.usd_per_hour, pool.price_source, pool.price_date)
    usd = pricing.usd(receipt.wall_seconds, price.usd_per_hour if price else None)
    return Charge(
        task=task,
        step=receipt.step,
        cut=CUTS.get(receipt.step, NO_CUT),
        attempt=receipt.attempt,
        pool=receipt.pool,
        capacity="unknown" if pool is None else "spot" if pool.spot else "on-demand",
        start=start,
        end=end,
        end_reason=receipt.end_reason,
        quantity=Quantity(
            node_seconds=receipt.wall_seconds,
            cpu_seconds=receipt.cpu_seconds,
            device_seconds=receipt.device_seconds,
            peak_resident_bytes=receipt.peak_resident_bytes,
            peak_device_bytes=receipt.peak_device_bytes,
        ),
        price=price,
        usd=None if usd is None else round(usd, 6),
        unknown_because=unknown_because,
        tokens=receipt.tokens,
        facts=receipt.facts,
        message=receipt.message,
    )


def _lost(task: str, attempt: int) -> Charge:
    return Charge(
        task=task,
        step=task,
        cut=CUTS.get(task, NO_CUT),
        attempt=attempt,
        pool="unknown",
        capacity="unknown",
        start=None,
        end=None,
        end_reason=NO_RECEIPT,
        quantity=None,
        price=None,
        usd=None,
        unknown_because="it left no receipt",
        tokens=None,
        facts={},
    )


def _period(task: str, receipt: Receipt) -> tuple[str, str]:
    """Return (start, end), UTC in ISO 8601."""
    problem = f"{task}: not a receipt of any run: "
    if not 1 <= receipt.attempt <= MAX_ATTEMPTS:
        raise DataError(f"{problem}attempt {receipt.attempt}, not 1 to {MAX_ATTEMPTS}: run the step again")
    if receipt.wall_seconds < 0:
        raise DataError(f"{problem}wall_seconds {receipt.wall_seconds} is negative: run the step again")
    try:
        start = datetime.datetime.fromisoformat(receipt.started_at).astimezone(datetime.UTC)
        end = start + datetime.timedelta(seconds=receipt.wall_seconds)
    except (ValueError, OverflowError) as error:
        period = f"started_at {receipt.started_at!r}, wall_seconds {receipt.wall_seconds}"
        raise DataError(f"{problem}{period} ({error}): run the step again") from error
    return start.isoformat(timespec="milliseconds"), end.isoformat(timespec="milliseconds")
