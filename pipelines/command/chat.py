"""Chat with a release in the terminal, found by folder, URI or name."""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deepcuts.components.core import escape
from deepcuts.components.core.store import open_store, retrieve
from deepcuts.components.publish import releases


@contextmanager
def located(release: str, store: str) -> Iterator[Path]:
    """Yield the folder of a release, downloaded and verified for the duration of the body if needed.

    ``release`` is a folder, a ``file://`` or ``s3://`` URI of one release, or ``NAME`` or ``NAME/VERSION`` in
    ``store``.

    Raises:
        FileNotFoundError: there is no such release.
        ValueError: ``release`` has none of these forms.
    """
    if Path(release).is_dir():
        yield Path(release)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "release"
        if "://" in release:
            place, _, last = release.rstrip("/").rpartition("/")
            retrieve(open_store(place), last, folder)
        else:
            name, _, version = release.partition("/")
            try:
                releases.download(open_store(store), name, version or "latest", folder)
            except FileNotFoundError as error:
                hint = "deepcuts releases lists them"
                raise FileNotFoundError(f"no release {release!r} in {store}: {hint}") from error
        yield folder


def talk(folder: Path, prompts: Iterable[str], temperature: float, max_new_tokens: int, seed: int) -> None:
    """Answer every prompt on stdout, remembering the earlier ones.

    Raises:
        ValueError: a setting or a prompt does not fit the model.
        DataError: the model in ``folder`` does not load.
    """
    # imported here: torch takes seconds, which other commands do not need
    from deepcuts.components.publish.talk import Conversation

    conversation = Conversation(folder, temperature, max_new_tokens, seed)
    for prompt in prompts:
        conversation.answer(prompt, _say)
        print()


def typed(read: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines that ``read`` (``input``) returns, without blank ones, until the end of input."""
    while True:
        try:
            line = read("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line


def _say(text: str) -> None:
    print(escape.terminal(text), end="", flush=True)
