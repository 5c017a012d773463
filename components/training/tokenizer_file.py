"""tokenizer.json, read without transformers."""

from pathlib import Path

from tokenizers import Tokenizer

from components.core.errors import judged
from components.training import faulty_field

FILE = "tokenizer.json"


def read(folder: Path) -> Tokenizer:
    """Read the tokenizer in ``folder``.

    Raises:
        DataError: it is none; names the field, or line and column of what is inside one.
    """
    with (
        faulty_field.named(folder, (FILE,), _read),
        judged(f"{FILE} is not a tokenizer", "download it again"),
    ):
        return _read(folder)


def _read(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / FILE))
