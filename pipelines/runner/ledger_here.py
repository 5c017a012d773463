"""Write the ledger of a run whose own ledger task did not run, because it was interrupted or cancelled."""

import os
import subprocess
import sys
from pathlib import Path

from deepcuts.components.core.cli import write_json
from deepcuts.components.core.run_records import INTERRUPTED
from deepcuts.pipelines.runner import pipeline_spec, placeholders, run_record, spec_types
from deepcuts.pipelines.runner.local import ROOT
from deepcuts.pipelines.runner.placeholders import TaskValues
from deepcuts.pipelines.runner.run_record import RunRecord

LEDGER = "ledger"


def write(package: Path, run: RunRecord, folder: Path, records: str = "") -> None:
    """Run the ledger task of ``package`` here on the records of the run.

    Args:
        package: Compiled pipeline (YAML).
        run: Record of a run that has ended; its ledger task becomes ``done``, or gets the reason why not.
        folder: Folder of the run; outputs go where its own ledger would have left them.
        records: URI of the run's folder in a store; empty if its records are in ``folder``.
    """
    pipeline = pipeline_spec.read(package)
    for path, leaf in pipeline_spec.leaves(pipeline):
        task, made = run.tasks[path], folder.absolute() / "tasks" / path / "outputs"
        if task.step != LEDGER:
            continue
        made.mkdir(parents=True, exist_ok=True)
        artifact = f"{records}/{path}/here/{LEDGER}" if records else f"file://{made / LEDGER}"
        ended = subprocess.run(
            [sys.executable, *_argv(pipeline, leaf, run, made, artifact)[1:]],
            cwd=ROOT,
            env=os.environ | ({INTERRUPTED: "1"} if run.status == "interrupted" else {}),
            capture_output=True,
            text=True,
        )
        (made.parent / "stderr.log").write_text(ended.stderr)
        task.exit_code = ended.returncode
        if ended.returncode:
            task.status, task.message = "failed", "\n".join(run_record.tail(made.parent, lines=5))
        else:
            task.status, task.message = "done", "written after the run had ended"
        write_json(folder / "run.json", run)


def has_ledger(run: RunRecord, folder: Path) -> bool:
    """Tell whether the run's own ledger task left a ledger in ``folder``."""
    return any(
        (folder / "tasks" / path / "outputs" / LEDGER / "ledger.json").exists()
        for path, task in run.tasks.items()
        if task.step == LEDGER
    )


def _argv(
    pipeline: spec_types.Pipeline, leaf: pipeline_spec.Leaf, run: RunRecord, made: Path, artifact_uri: str
) -> list[str]:
    """Return the task's command in its pod, with outputs below ``made``; its URI there names the run."""
    scope = TaskValues("done", pipeline_spec.arguments(pipeline, run.arguments), {})
    executor = placeholders.executor_input(
        leaf.component,
        placeholders.inputs(leaf.task, scope, {}, {}),
        lambda artifact: str(artifact.path),
        lambda name: str(made / name),
    )
    assert (container := leaf.executor.container)
    words = placeholders.fill([*container.command, *container.args], executor, {})
    return [artifact_uri if word == f"file://{made / LEDGER}" else word for word in words]
