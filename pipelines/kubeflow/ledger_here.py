"""Write the ledger of a run that did not: a server that cancels a run ends its ledger task, too."""

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
    """Run the ledger task of ``package`` here, unless it left its ledger, on what the run's tasks left.

    Args:
        package: Compiled pipeline (YAML).
        run: Record of a run that has ended; that of its ledger task becomes ``done``, or says why it failed.
        store: Open at ``<pipeline root>/<pipeline>``.
        folder: Of the run; the outputs go where those of a ledger brought home lie.
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
    """Return what the task would run in its pod, with outputs below ``made``; its URI there names the run."""
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
