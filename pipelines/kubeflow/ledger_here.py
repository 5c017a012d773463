"""Write the ledger of a run whose own ledger task did not run, as when the server cancels a run."""

import subprocess
import sys
from pathlib import Path

from deepcuts.components.core.cli import write_json
from deepcuts.components.core.store import Store
from deepcuts.pipelines.runner import pipeline_spec, placeholders, run_record, spec_types
from deepcuts.pipelines.runner.local import ROOT
from deepcuts.pipelines.runner.placeholders import TaskValues
from deepcuts.pipelines.runner.run_record import RunRecord

LEDGER = "ledger"


def write(package: Path, run: RunRecord, store: Store, folder: Path) -> None:
    """Run the ledger task of ``package`` here on the records of the run, unless there is a ledger.

    Args:
        package: Compiled pipeline (YAML).
        run: Record of a finished run; its ledger task becomes ``done``, or gets the reason of the failure.
        store: Open at ``<pipeline root>/<pipeline>``.
        folder: Folder of the run; outputs go where a downloaded ledger would be.
    """
    pipeline = pipeline_spec.read(package)
    for path, leaf in pipeline_spec.leaves(pipeline):
        task, made = run.tasks[path], folder.absolute() / "tasks" / path / "outputs"
        if task.step != LEDGER or (made / LEDGER / "ledger.json").exists():
            continue
        made.mkdir(parents=True, exist_ok=True)
        argv = _argv(pipeline, leaf, run, made, store.uri(f"{run.run_id}/{path}/here/{LEDGER}"))
        ended = subprocess.run([sys.executable, *argv[1:]], cwd=ROOT, capture_output=True, text=True)
        (made.parent / "stderr.log").write_text(ended.stderr)
        task.exit_code = ended.returncode
        if ended.returncode:
            task.status, task.message = "failed", "\n".join(run_record.tail(made.parent, lines=5))
        else:
            task.status, task.message = "done", "written here: the server did not run it to its end"
        write_json(folder / "run.json", run)


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
