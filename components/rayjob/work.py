"""Run a step on the head of a RayJob: ``python -m deepcuts.components.rayjob.work TASK_URI``.

Inputs come from the store and outputs go back there, as no disk is shared with the pod that started it.
The step is a process of its own with the same flags.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from deepcuts.components.core import carry, escape
from deepcuts.components.core.errors import StoreError, exit_code
from deepcuts.components.core.orphans import end_with_parent
from deepcuts.components.core.store import Store, open_store
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.tune.inputs import bring

TASK, RECEIPT = "task.json", "receipt.json"


class RayInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file or folder that was put into the store (``tune/inputs.py``)."""

    digest: str
    file: str
    """Its name, by which a reader may know its format; empty for a folder."""


class RayTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a RayJob runs."""

    module: str
    store: str
    inputs: dict[str, RayInput]
    """By flag."""
    values: dict[str, str]
    """The other flags, as text."""
    outputs: list[str]
    """Flags of files to bring back."""


def run(uri: str) -> int:
    """Run the task at ``uri``, the URI of its folder; return the exit code of its step."""
    folder = open_store(uri)
    try:
        task = msgspec.json.decode(folder.get_bytes(TASK), type=RayTask)
    except MALFORMED as error:
        raise StoreError(
            f"{folder.uri(TASK)} is damaged ({error}): delete it, and run the step again"
        ) from error
    with tempfile.TemporaryDirectory(prefix="rayjob-") as scratch:
        place = Path(scratch)
        given = {
            flag: str(_brought(open_store(task.store), one, place / "inputs" / flag))
            for flag, one in task.inputs.items()
        }
        made = {flag: place / "outputs" / flag for flag in task.outputs}
        flags = task.values | given | {flag: str(path) for flag, path in made.items()}
        words = [word for flag, value in flags.items() for word in (flag, value)]
        command = [sys.executable, "-m", task.module, *words, "--receipt", str(place / RECEIPT)]
        code = subprocess.run(command, preexec_fn=end_with_parent).returncode
        for flag, path in made.items():
            carry.put(f"{uri}/outputs/{flag.lstrip('-')}", path)
        carry.put(f"{uri}/{RECEIPT}", place / RECEIPT)  # last: it says that the outputs are complete
    return code if code >= 0 else 128 - code


def _brought(store: Store, one: RayInput, folder: Path) -> Path:
    found = bring(store, one.digest, folder)
    return found.rename(folder / one.file) if one.file else found


def main(uri: str) -> int:
    """Run the task; errors outside its step go to stderr."""
    try:
        return run(uri)
    except Exception as error:
        if exit_code(error) == 1:
            raise
        print(escape.terminal(escape.redacted(f"rayjob: {error}")), file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
