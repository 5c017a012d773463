"""Log a run to MLflow: settings as parameters, results as metrics, the report as an artifact."""

import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from deepcuts.components.core.receipts import FINE, SETTING, Facts
from deepcuts.components.ledger.charges import Charge
from deepcuts.components.ledger.charts import CurvePoint
from deepcuts.components.ledger.ledger import Ledger

BATCH = 100
"""MLflow accepts 100 parameters and 1,000 metrics per request."""
MAX_POINTS = 1000
"""Points of a curve."""
LONGEST = 500
"""Characters of a parameter that every server accepts."""


def log(
    book: Ledger,
    rows: Sequence[Charge],
    curves: Mapping[str, Sequence[CurvePoint]],
    files: Mapping[str, Path],
    facts: Facts,
) -> str:
    """Log a run to ``MLFLOW_TRACKING_URI`` under ``MLFLOW_EXPERIMENT_NAME`` (deepcuts); returns its id.

    Args:
        files: Artifacts by name.
        facts: The ledger's facts, logged as metrics without a task's name as prefix.

    Raises:
        MlflowException, OSError, ImportError: the server or its artifact store refused or is unreachable.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default of 7 takes minutes
    client, name = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", "deepcuts")
    experiment = client.get_experiment_by_name(name)
    identity = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {"verdict": book.verdict, "next_action": book.next_action[:LONGEST]}
    begun, ended = period(rows)
    run: str = client.create_run(identity, start_time=begun, tags=tags).info.run_id
    by_task = {row.task: row.facts for row in rows}  # the last attempt of each task
    now = time.time_ns() // 10**6
    metrics = [Metric(_key(name), value, now, 0) for name, value in numbers(facts, by_task).items()]
    metrics += [point for curve in curves for point in history(curve, curves[curve], now)]
    params = [Param(_key(name), value) for name, value in settings(by_task).items()]
    for start in range(0, max(len(metrics), len(params)), BATCH):
        part = slice(start, start + BATCH)
        client.log_batch(run, metrics=metrics[part], params=params[part])
    with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder) / name)
        client.log_artifacts(run, folder)
    fine = all(row.end_reason in FINE for row in rows)
    client.set_terminated(run, "FINISHED" if fine else "FAILED", end_time=ended)
    return run


def period(rows: Sequence[Charge]) -> tuple[int | None, int | None]:
    """Return start and end of the run's own tasks in ms, from which MLflow computes the duration.

    None, which MLflow replaces by the current time, if no task has a receipt.
    """
    own = [row for row in rows if not row.reused]
    starts, ends = [row.start for row in own if row.start], [row.end for row in own if row.end]
    return (_ms(min(starts)), _ms(max(ends))) if starts and ends else (None, None)


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def numbers(facts: Facts, by_task: Mapping[str, Facts]) -> dict[str, float]:
    """Collect every finite number in the facts of the ledger and the tasks, by ``task.fact``."""
    found = dict(facts) | {
        f"{task}.{name}": value for task in by_task for name, value in by_task[task].items()
    }
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value) and f".{SETTING}" not in name
    }


def settings(by_task: Mapping[str, Facts]) -> dict[str, str]:
    """Collect settings and choices of the tasks by ``task.fact``: recipes, and facts that are text."""
    return {
        f"{task}.{name}": str(value)[:LONGEST]
        for task, facts in by_task.items()
        for name, value in facts.items()
        if name.startswith(SETTING) or isinstance(value, str)
    }


def history(name: str, points: Sequence[CurvePoint], at: int) -> list[Metric]:
    """Convert a loss curve to metrics; their steps are trained tokens."""
    thinned = points[:: -(-len(points) // MAX_POINTS) or 1]
    return [
        Metric(_key(f"{name}.curve"), point.loss, at, int(point.tokens))
        for point in thinned
        if point.loss is not None and math.isfinite(point.loss)
    ]


def _key(name: str) -> str:
    """Replace characters that MLflow refuses."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:200]
