"""Which split an Example goes to, so that nothing stands in two of them."""

import hashlib
from collections.abc import Collection

from components.core.examples import Example


def content_key(example: Example) -> bytes:
    """Equal for Examples whose messages say the same, whatever their case and white space."""
    text = " ".join(" ".join(message.content for message in example.messages).lower().split())
    return hashlib.sha256(text.encode()).digest()[:16]


def carve(key: bytes, valid_share: float, test_share: float, seed: int) -> str:
    """The split that content falls into: by its hash, so it stays there when other rows come and go."""
    place = int.from_bytes(hashlib.sha256(b"%d " % seed + key).digest()[:8]) / 2**64
    if place < test_share:
        return "test"
    return "valid" if place < test_share + valid_share else "train"


class Splitter:
    """Places Examples one by one; splits without files of their own (``given``) are carved out of train.

    Raises:
        ValueError: shares that leave nothing to train on.
    """

    def __init__(self, given: Collection[str], valid_share: float, test_share: float, seed: int) -> None:
        if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
            raise ValueError(
                f"valid_share {valid_share} and test_share {test_share}: give shares from 0 to below 1 that "
                "leave something to train on"
            )
        self.wanted = {"train", *given}
        """Splits that must not come out empty."""
        self.wanted |= {name for name, share in (("valid", valid_share), ("test", test_share)) if share}
        self._given, self._shares, self._seed = given, (valid_share, test_share), seed
        self._held_out: dict[bytes, str] = {}

    def place(self, example: Example, split: str) -> str | None:
        """The split for an ``example`` from a file of ``split``; None when it stands in another one already.

        Give the files of test first, then valid, then train: test wins, then valid.
        """
        key = content_key(example)
        if self._held_out.get(key, split) != split:
            return None
        if split != "train":
            self._held_out[key] = split
            return split
        carved = carve(key, *self._shares, self._seed)
        return "train" if carved in self._given else carved
