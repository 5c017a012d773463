"""The page of a run, from its JSON: a figure that was not measured is a dash."""

from collections.abc import Iterable
from typing import Any

from deepcuts.components.core import escape
from deepcuts.components.core.markdown import table

NONE = "–"
DRY = "**This is a dry run on a CPU: it shows that the command starts, and its figures mean nothing.**\n\n"
HOW = """\
Tokens per second are trained tokens (prompt and answer) over the seconds of the steps, the first ones
included, compiling and scoring not. Device memory is torch.cuda.max_memory_allocated of the process, the
scoring at its end included. One run a row, no spread: two rows that differ by less than a tenth say nothing.
"""
PLAN = """\
*allocated* is what plan predicts without the CUDA context and what an allocator cannot use, which
max_memory_allocated does not count either. plan counts every token, also where a shared beginning is computed
once. Its hours begin with 60 s (p90: 600 s) for pod, image and weights; the measured ones are of the process.
Loss: nats per answer token, 32 held-out examples.
"""
PEER = """\
Same base, examples, LoRA, rate, schedule and optimizer, eager, no Liger; about as many tokens a pass. TRL
pads, this loop packs. Seconds are of the whole call of the trainer, its preparation included, and device
memory is without the scoring. One pair.
"""


def markdown(found: dict[str, Any]) -> str:
    """Render ``found``, the content of gpu.json, as Markdown."""
    parts = {part: [row for row in found["rows"] if row["part"] == part] for part in ("path", "arm", "peer")}
    ran = {part: [row for row in rows if row["ended"] != "left out"] for part, rows in parts.items()}
    left_out = [row for row in found["rows"] if row["ended"] == "left out"]
    text = f"# Training on {found['device']['name']}\n\n{DRY if found['dry'] else ''}"
    text += f"{_conditions(found)}\n\n{HOW}"
    text += f"\n## Paths\n\nA tiny model ({found['tiny']}).\n\n{_paths(ran['path'])}\n"
    text += f"\n## Arms\n\n{found['base']}, {found['tokens']:,} tokens.\n\n{_arms(ran['arm'])}\n\n{PLAN}"
    text += f"\n## Against TRL\n\n{_peers(ran['peer'])}\n\n{PEER}"
    rows = [(row["part"], row["name"], escape.markdown(row["message"])) for row in left_out]
    return text + f"\n## Left out\n\n{table(('part', 'case', 'why'), rows) if rows else 'Nothing.'}\n"


def _conditions(found: dict[str, Any]) -> str:
    device, versions = found["device"], found["versions"]
    words = [f"{name} {version or 'not installed'}" for name, version in versions.items()]
    facts = [f"{name} {value}" for name, value in device.items() if name != "name"]
    asked = f"{found['seconds'] / 60:.1f} of {found['minutes']:g} minutes"
    return f"{found['date']}, {asked}. {', '.join([*facts, *words])}."


def _paths(rows: Iterable[dict[str, Any]]) -> str:
    head = ("path", "ended", "taken", "seconds", "tokens/s", "device memory", "receipt")
    cells = [
        (
            row["name"],
            row["ended"],
            {True: "yes", False: "**no**", None: NONE}[row.get("path_taken")],
            _number(row["seconds"], ".1f"),
            _number(row.get("tokens_per_second")),
            _gigabytes(row.get("peak_device_bytes")),
            escape.markdown(_said(row)),
        )
        for row in rows
    ]
    return table(head, cells, right=(3, 4, 5)) if cells else "None was run."


def _arms(rows: Iterable[dict[str, Any]]) -> str:
    head = ("arm", "ended", "tokens/s", "device memory", "plan: allocated", "plan: total", "training s")
    head += ("plan: p50", "hours", "plan: p50 to p90", "loss", "receipt")
    cells = []
    for row in rows:
        plan = row.get("predicted") or {}
        hours = [_number(plan.get(name), ".4f") for name in ("hours_p50", "hours_p90")]
        measured = row.get("wall_seconds") if row["ended"] == "ok" else None
        cells.append(
            (
                row["name"],
                row["ended"],
                _number(row.get("tokens_per_second")),
                _gigabytes(row.get("peak_device_bytes")),
                _gigabytes(plan.get("allocated_bytes")),
                _gigabytes(plan.get("total_bytes")),
                _number(row.get("train_seconds"), ".1f"),
                _number(plan.get("train_seconds_p50"), ".1f"),
                _number(measured and measured / 3600, ".4f"),
                " to ".join(hours) if plan.get("hours_p50") is not None else NONE,
                _number(row.get("valid_loss"), ".4f"),
                escape.markdown(_said(row)),
            )
        )
    return table(head, cells, right=range(2, 11)) if cells else "None was run."


def _peers(rows: Iterable[dict[str, Any]]) -> str:
    cells = [
        (
            row["name"],
            row["ended"],
            _number(row.get("tokens_per_second")),
            _number(row.get("train_seconds"), ".1f"),
            _gigabytes(row.get("peak_device_bytes")),
            _number(row.get("valid_loss"), ".4f"),
            escape.markdown(_said(row)),
        )
        for row in rows
    ]
    head = ("trainer", "ended", "tokens/s", "seconds", "device memory", "loss", "message")
    return table(head, cells, right=range(2, 6)) if cells else "None was run."


def _said(row: dict[str, Any]) -> str:
    """Return a failure's message, else the facts that were asked for."""
    return row["message"] or "; ".join(f"{name}: {value}" for name, value in row.get("facts", {}).items())


def _number(value: float | None, form: str = ",.0f") -> str:
    return NONE if value is None else format(value, form)


def _gigabytes(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e9:.2f} GB"
