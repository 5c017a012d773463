"""Find the field of a JSON file that a library fails on, by removing one field at a time."""

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepcuts.components.core.deadline import within
from deepcuts.components.core.errors import DataError, is_panic
from deepcuts.components.training import model_files

SEARCH_SECONDS = 30.0
"""A trial takes milliseconds (a model of a few layers, a tokenizer) to 2 s (126 layers)."""

FieldPath = tuple[str, ...]
"""A field: its key, or two keys if it is inside an object."""


@contextlib.contextmanager
def named(folder: Path, files: tuple[str, ...], works: Callable[[Path], object]) -> Iterator[None]:
    """Name in a DataError of the body the field of ``files`` at fault: without it ``works`` succeeds.

    The message stays as it is if no single field is at fault.
    """
    try:
        yield
    except DataError as error:
        blame(error, folder, files, works)
        raise


def blame(error: DataError, folder: Path, files: tuple[str, ...], works: Callable[[Path], object]) -> None:
    """Raise ``error`` with the field at fault in front of its message, if one is found (see ``named``)."""
    said = str(error)
    if found := _found(folder, files, works, said):
        file, place = found
        raise type(error)(f"{file}: {'.'.join(place)}: {said}") from error


def _found(
    folder: Path, files: tuple[str, ...], works: Callable[[Path], object], said: str
) -> tuple[str, FieldPath] | None:
    """Return (file, path) of the first field without which ``works`` succeeds; None if not found in time."""
    late = within(SEARCH_SECONDS, TimeoutError("no field found in time"))
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(TimeoutError), late:
        trial = Path(scratch)
        for path in folder.iterdir():
            if path.is_file() and path.suffix.lower() != ".safetensors":
                trial.joinpath(path.name).symlink_to(path.absolute())
        for file in files:
            try:
                value = model_files.read_object(folder / file)
            except (DataError, FileNotFoundError):  # the file has no fields
                continue
            for place in sorted(_places(value), key=lambda place: (place[-1] not in said, -len(place))):
                trial.joinpath(file).unlink()
                trial.joinpath(file).write_text(json.dumps(_without(value, place)))
                if _does(works, trial):
                    return file, place
            trial.joinpath(file).unlink()
            trial.joinpath(file).symlink_to((folder / file).absolute())
    return None


def _places(value: dict[str, Any]) -> Iterator[FieldPath]:
    """Yield every field and the fields of those that are objects."""
    for key, inner in value.items():
        yield (key,)
        if isinstance(inner, dict):
            yield from ((key, name) for name in inner)


def _without(value: dict[str, Any], place: FieldPath) -> dict[str, Any]:
    changed = copy.copy(value)
    key, *inner = place
    if inner:
        changed[key] = {name: kept for name, kept in value[key].items() if name != inner[0]}
    else:
        del changed[key]
    return changed


def _does(works: Callable[[Path], object], folder: Path) -> bool:
    try:
        works(folder)
    except Exception:
        return False
    except BaseException as error:
        if not is_panic(error):
            raise
        return False
    return True
