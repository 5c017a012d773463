"""Keep scores in the store, so that a killed evaluation resumes."""

import msgspec

from deepcuts.components.core.scorecards import Score
from deepcuts.components.core.store import Store


class KeptScores:
    """Scores of earlier attempts of this evaluation in the store, by chunk."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix, self.found = store, prefix, 0

    def read(self, number: int) -> list[Score]:
        """Return the scores of a chunk; empty if it was not scored."""
        try:
            lines = self._store.get_bytes(self._key(number))
        except FileNotFoundError:
            return []
        scores = msgspec.json.Decoder(Score).decode_lines(lines)
        self.found += len(scores)
        return scores

    def write(self, number: int, scores: list[Score]) -> None:
        """Store the scores of a chunk."""
        self._store.put_bytes(self._key(number), msgspec.json.Encoder().encode_lines(scores))

    def clear(self) -> None:
        """Delete the scores once the Scorecard is written, so that another evaluation starts over."""
        for key in self._store.list(self._prefix):
            self._store.delete(key)

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:06d}.jsonl"
