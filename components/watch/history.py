"""The scores of one training run on one valid split, in the store: the watcher's whole memory.

Layout: ``trainings/<training_id>/scores-<split>/step-<8 digits>/`` is a published Scorecard and tokens.json,
``best-<8 digits>/`` the weights of the best so far. A score is published after its weights, so a watcher that
was killed anywhere goes on from what is published.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from components.core import scorecards
from components.core.scorecards import Score, Scorecard
from components.core.store import MANIFEST, Store, publish, retrieve, withdraw

SEED = 0
"""Of the bootstrap: it moves a bound by about 0.02 standard errors."""


class Scored(NamedTuple):
    """One checkpoint's score."""

    step: int
    tokens: int
    card: Scorecard
    scores: list[Score]

    @property
    def loss(self) -> float:
        return self.card.answer_loss.mean


class History:
    """All scores so far, oldest step first."""

    def __init__(self, store: Store, training_id: str, split_digest: str) -> None:
        self._store, self._prefix = store, f"trainings/{training_id}/scores-{split_digest[:16]}"
        self.scored = [self._read(step) for step in self._published("step")]

    def add(self, new: Scored, weights: Path) -> None:
        """Keep a score, and ``weights`` (a folder) if it is the best so far in place of those that were."""
        is_best = not self.scored or new.loss < self.best.loss
        if is_best:
            publish(self._store, weights, self._key("best", new.step))
        with tempfile.TemporaryDirectory(prefix="score-") as scratch:
            folder = Path(scratch) / "score"
            scorecards.write(folder, new.card, new.scores)
            folder.joinpath("tokens.json").write_bytes(msgspec.json.encode(new.tokens))
            publish(self._store, folder, self._key("step", new.step))
        self.scored.append(new)
        for step in self._published("best"):
            if step != self.best.step:
                withdraw(self._store, self._key("best", step))

    @property
    def best(self) -> Scored:
        """Of the lowest answer loss; the earliest of equals."""
        return min(self.scored, key=lambda scored: scored.loss)

    @property
    def best_weights(self) -> str:
        """Key of the best checkpoint's published weights."""
        return self._key("best", self.best.step)

    def _published(self, kind: str) -> list[int]:
        seals = [key for key in self._store.list(f"{self._prefix}/{kind}-") if key.endswith(f"/{MANIFEST}")]
        return sorted(int(key.split("/")[-2].removeprefix(f"{kind}-")) for key in seals)

    def _key(self, kind: str, step: int) -> str:
        return f"{self._prefix}/{kind}-{step:08d}"

    def _read(self, step: int) -> Scored:
        with tempfile.TemporaryDirectory(prefix="score-") as scratch:
            folder = Path(scratch) / "score"
            retrieve(self._store, self._key("step", step), folder)
            tokens = msgspec.json.decode(folder.joinpath("tokens.json").read_bytes(), type=int)
            return Scored(step, tokens, scorecards.read(folder), scorecards.read_scores(folder))


def scores_without_gain(scored: Sequence[Scored]) -> int:
    """How many scores there have been since the last that was better than all it was held against.

    Better means by more than chance: the paired 90 % interval of the difference lies below 0. Each is held
    against the last that was better, so that many small gains add up to one that shows.
    """
    leader, without = scored[0], 0
    for challenger in scored[1:]:
        compared = scorecards.compare(
            [challenger.scores], [leader.scores], "answer_loss", margin=1.0, seed=SEED
        )
        leader, without = (challenger, 0) if compared.high < 0 else (leader, without + 1)
    return without
