"""Read a Kubeflow run's outputs from the store: task results, receipts, ledger and report."""

from pathlib import Path

from deepcuts.components.core import carry, records, run_records
from deepcuts.components.core.attempts import RECEIPT, Begun
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.receipts import END_REASONS, FINE, Receipt
from deepcuts.components.core.run_records import CHAIN
from deepcuts.components.core.store import Store
from deepcuts.pipelines.kubeflow.pods import RunPods, failure, own_lines
from deepcuts.pipelines.runner.pipeline_spec import AS_PLANNED
from deepcuts.pipelines.runner.run_record import HELD_BACK, RunRecord, TaskRecord

SILENT = "ended without a message: look at its pod's log in the Kubeflow UI"
KILLED, PREEMPTED, INFRASTRUCTURE = 137, 143, 4
DELETED = "pod deleted"
"""Argo's message for an attempt whose pod is gone; it is final once there are no retries left."""
EXIT_CODES = {reason: code for code, reason in END_REASONS.items()}


class RunOutputs:
    """Outputs of a run under ``<pipeline root>/<pipeline>/<run>/<task>/…`` (KFP 2.17).

    ``store`` is open at ``<pipeline root>/<pipeline>``, or None without one.
    """

    def __init__(self, store: Store | None, run_id: str, pods: RunPods) -> None:
        self._store, self._run_id, self._pods = store, run_id, pods
        self._keys: list[str] = []
        self._receipts: dict[str, Receipt] = {}

    def refresh(self) -> None:
        """Clear the cache of listed outputs."""
        self._pods.refresh()
        if self._store:
            self._keys = self._store.list(f"{self._run_id}/")

    def describe(self, path: str, task: TaskRecord, folder: Path, ended: bool) -> None:
        """Complete ``task`` from its attempts' records, with the reason if it has failed."""
        keys = self._of(path)
        if self._store and keys:
            self._from_attempts(path, task, keys)
        elif self._store and ended and task.status == "done" and task.step != "importer":
            task.cached, task.seconds, task.attempt = True, 0.0, 0  # no attempt began in this run
        if task.status == "failed":
            self._explain(path, task, keys)
        if task.status in ("running", "waiting", "failed"):
            said = self._pods.say(path) if task.status != "failed" else task.message
            if said:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "stderr.log").write_text(said)

    def explain_start(self, run: RunRecord) -> None:
        """If a failed run has no failed task, fail the first one left out: the driver of its DAG failed."""
        tasks = run.tasks.values()
        held = next((task for task in tasks if (task.status, task.message) == ("skipped", HELD_BACK)), None)
        if held and not any(task.status == "failed" for task in tasks):
            said = self._pods.dag_driver() or "see the driver that failed in the Kubeflow UI"
            held.status, held.exit_code = "failed", INFRASTRUCTURE
            held.message = f"Kubeflow could not start it: {said}"

    def collect(self, run: RunRecord, folder: Path) -> None:
        """Download the receipts, ledger, summary and report of a finished run."""
        if not self._store:
            return
        left = run_records.read(self._store.uri(f"{self._run_id}/client/none/none"))
        for path in run.tasks:
            name = _last(path)
            for row in (run_records.row(name, RECEIPT), run_records.row(name, RECEIPT, CHAIN)):
                if receipts := left.receipts.get(row):
                    write_json(folder / "tasks" / path / "receipt.json", receipts[-1])
                    if run.tasks[path].pool == AS_PLANNED:  # from the cache: no attempt began
                        run.tasks[path].pool = receipts[-1].pool
            if run.tasks[path].step == "ledger":
                for output in ("ledger", "summary", "report"):
                    if uri := left.artifacts.get(f"{name}/{output}"):
                        carry.get(uri, folder / "tasks" / path / "outputs" / output)

    def _from_attempts(self, path: str, task: TaskRecord, keys: list[str]) -> None:
        begun = [key for key in keys if key.split("/")[-2] == "begun"]
        closed = [key for key in keys if key.split("/")[-3] == "receipts" and key.endswith(f"/{RECEIPT}")]
        if not begun:
            return
        task.attempt = len(begun)
        assert self._store  # else there were no keys
        if task.pool == AS_PLANNED:
            task.pool = records.read(self._store, begun[-1], Begun, "submit the run again").pool
        ended = [self._receipt(key) for key in closed]
        last = max(ended, key=lambda receipt: receipt.attempt, default=None)
        task.seconds = task.seconds or round(sum(receipt.wall_seconds for receipt in ended), 3)
        if last and last.end_reason in FINE:
            task.status, task.exit_code, task.message = "done", 0, ""
        elif last and last.attempt == len(begun) and task.status not in ("running", "waiting"):
            task.status, task.exit_code = "failed", EXIT_CODES[last.end_reason]
            task.message = last.message
        elif task.status == "waiting":
            task.status = "running"

    def _receipt(self, key: str) -> Receipt:
        """Return the receipt at ``key``, cached because it does not change and is needed every time."""
        assert self._store
        if key not in self._receipts:
            fix = "delete it, and its attempt counts as lost"
            self._receipts[key] = records.read(self._store, key, Receipt, fix)
        return self._receipts[key]

    def _explain(self, path: str, task: TaskRecord, keys: list[str]) -> None:
        """Set a failed task's message and exit code from the best available source."""
        if self._store and (end := run_records.terminal(self._store, keys)):
            task.message, task.exit_code = end.message, end.code
            return
        if not keys and (said := self._pods.driver(path)):
            task.message, task.exit_code = f"Kubeflow could not start it: {said}", INFRASTRUCTURE
            return
        if task.message and task.exit_code not in (None, 1):
            return
        reason, codes = self._pods.reason(path), self._pods.exits(path)
        if "OOMKilled" in reason or KILLED in codes[:1]:
            task.exit_code = INFRASTRUCTURE
            task.message = (
                "ran out of memory: give its node pool larger nodes (memory_bytes), or lower "
                "recipe.micro_batch_size, max_tokens or max_examples"
            )
        elif "exit code 143" in reason or reason == DELETED or PREEMPTED in codes[:1]:
            task.exit_code = PREEMPTED
            task.message = "its pod was taken away: submit again, it resumes from what is in the store"
        elif reason and not keys:  # our code never ran
            task.exit_code, task.message = INFRASTRUCTURE, reason
        else:
            log = self._log(keys) or self._pods.log(path)
            if failed := failure(log):  # it is not in the store, which was unreachable
                task.exit_code, task.message = EXIT_CODES[failed.end_reason], failed.message
            else:
                task.message = task.message or own_lines(log) or self._pods.say(path) or reason or SILENT

    def _log(self, keys: list[str]) -> str:
        """Return the end of the log that KFP's launcher uploads, even for failed steps."""
        logs = [key for key in keys if key.split("/")[-1].startswith("executor-logs")]
        return self._store.get_bytes(logs[-1]).decode(errors="replace") if logs and self._store else ""

    def _of(self, path: str) -> list[str]:
        prefix = f"{self._run_id}/{_last(path)}/"
        return [key for key in self._keys if key.startswith(prefix)]


def logs(store: Store | None, run_id: str, pods: RunPods, task: str) -> dict[str, str]:
    """Return the logs of a run's tasks by task, or only that of ``task``.

    ``store`` is open at ``<pipeline root>/<pipeline>``; missing logs are read from pods that still exist.
    """
    found: dict[str, str] = {}
    for key in store.list(f"{run_id}/") if store else []:
        *_, name, _, file = key.split("/")
        if file.startswith("executor-logs") and task in ("", name) and store:
            found[f"{name} ({file})"] = store.get_bytes(key).decode(errors="replace").rstrip()
    if not found and task and (said := pods.say(task)):
        found[task] = said
    return found


def _last(path: str) -> str:
    """Return a task's name in its own DAG, which KFP uses in the store."""
    return path.rpartition(".")[2]
