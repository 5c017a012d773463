"""Assign Examples to splits so that nothing is in two of them."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example


def content_key(example: Example) -> bytes:
    """Return a key that is equal for Examples that read the same (``examples.plain``)."""
    text = examples.plain(" ".join(examples.said(message) for message in example.messages))
    return hashlib.sha256(text.encode()).digest()[:16]


MIN_EXAMPLES = 2
"""Distinct examples that a split needs; with one, there is no interval for the gate."""
NOTHING: Mapping[bytes, str] = MappingProxyType({})


def carve(key: bytes, valid_share: float, test_share: float, seed: int) -> str:
    """Return the split of content by its hash, so that it does not depend on other rows."""
    place = int.from_bytes(hashlib.sha256(b"%d " % seed + key).digest()[:8]) / 2**64
    if place < test_share:
        return "test"
    return "valid" if place < test_share + valid_share else "train"


class Splitter:
    """Assigns Examples one by one; splits without files of their own (``given``) are taken from train.

    Raises:
        ValueError: the shares leave nothing to train on.
    """

    def __init__(
        self,
        given: Collection[str],
        valid_share: float,
        test_share: float,
        seed: int,
        moved: Mapping[bytes, str] = NOTHING,
    ) -> None:
        if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
            raise ValueError(
                f"valid_share {valid_share} and test_share {test_share}: give shares from 0 to below 1 that "
                "leave something to train on"
            )
        self.wanted = {"train", *given}
        """Splits that must not be empty."""
        self.carved = {name for name, share in (("valid", valid_share), ("test", test_share)) if share}
        self.carved -= set(given)
        self._moved = moved
        self.wanted |= {name for name, share in (("valid", valid_share), ("test", test_share)) if share}
        self._given, self._shares, self._seed = given, (valid_share, test_share), seed
        self._held_out: dict[bytes, str] = {}

    def place(self, example: Example, split: str) -> str | None:
        """Return the split of an ``example`` from a file of ``split``; None if another split has it already.

        Pass the files of test first, then valid, then train: test wins, then valid.
        """
        key = content_key(example)
        if self._held_out.get(key, split) != split:
            return None
        if split != "train":
            self._held_out[key] = split
            return split
        carved = self._moved.get(key) or carve(key, *self._shares, self._seed)
        return "train" if carved in self._given else carved


def top_up(files: Mapping[str, Path], carved: Collection[str], seed: int) -> dict[bytes, str]:
    """Return moves of content so that train and every carved split has ``MIN_EXAMPLES`` distinct examples.

    With few rows, a hash sometimes leaves a split empty. Moves are chosen by a hash, too; nothing moves if
    there is enough, or too little for all. ``files`` are the splits as written (JSONL).
    """
    pool = {"train", *carved}
    short = [split for split in sorted(pool) if not _holds(files[split], MIN_EXAMPLES)]
    if not short or not carved:
        return {}
    keys = {split: _keys(files[split], seed) for split in pool}
    if sum(map(len, keys.values())) < MIN_EXAMPLES * len(pool):
        return {}
    moved: dict[bytes, str] = {}
    for split in short:
        while len(keys[split]) < MIN_EXAMPLES:
            donor = max(sorted(pool), key=lambda name: len(keys[name]))
            keys[split].append(keys[donor].pop())
            moved[keys[split][-1]] = split
    return moved


def _holds(file: Path, count: int) -> bool:
    """Tell whether a split has at least ``count`` distinct examples."""
    found: set[bytes] = set()
    for example in examples.stream(file) if file.stat().st_size else ():
        found.add(content_key(example))
        if len(found) >= count:
            return True
    return False


def _keys(file: Path, seed: int) -> list[bytes]:
    """Return the distinct content of a split, in an order given by ``seed``."""
    keys = {content_key(example) for example in (examples.stream(file) if file.stat().st_size else ())}
    return sorted(keys, key=lambda key: hashlib.sha256(b"%d move " % seed + key).digest())
