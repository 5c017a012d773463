"""Accept names of the previous version for one version: silently in files, with a warning in settings."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

FORMER = {
    "answer_loss": "completion_loss",
    "answer_loss_before": "completion_loss_before",
    "answer_loss_after": "completion_loss_after",
    "foresight": "plan_accuracy",
}
"""Old to new names of metrics, facts and fields of the ledger."""
QUOTED = re.compile(rf'"({"|".join(FORMER)})"'.encode())
"""A complete JSON string; it does not match inside a longer one, where quotes have backslashes."""


def current(raw: bytes) -> bytes:
    """Return a scorecard or ledger (JSON) with current names."""
    return QUOTED.sub(lambda found: f'"{FORMER[found[1].decode()]}"'.encode(), raw)


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pipeline's arguments with the metrics in ``measures`` and ``metric`` under their new names."""
    measures = given.get("measures")
    changed = {"measures": [named(one, "measures") for one in measures]} if isinstance(measures, list) else {}
    return {**given, **changed, **({"metric": named(given["metric"], "metric")} if "metric" in given else {})}


def named(metric: Any, where: str) -> Any:
    """Return the current name of a metric; warn if ``metric`` is an old one."""
    new = FORMER.get(metric) if isinstance(metric, str) else None
    if new:
        warnings.warn(f"{where}: {metric} is called {new} now: rename it", FutureWarning, stacklevel=2)
    return new or metric
