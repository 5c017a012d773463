"""Scores of one training run on one valid split, in the store: the watcher's whole state.

Layout: ``trainings/<training_id>/scores-<split>/step-<8 digits>/`` is a published Scorecard and tokens.json,
``best-<8 digits>/`` has the best weights so far. A score is published after its weights, so a killed watcher
resumes from the published scores.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from deepcuts.components.core import scorecards
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.scorecards import Score, Scorecard
from deepcuts.components.core.store import Store, publish, retrieve, withdraw

SEED = 0
"""Seed of the bootstrap; it moves a bound by about 0.02 standard errors."""


class Scored(NamedTuple):
    """One checkpoint's score."""

    step: int
    tokens: int
    card: Scorecard
    scores: list[Score]

    @property
    def loss(self) -> float:
        return self.card.completion_loss.mean


class History:
    """All scores so far, oldest step first."""

    def __init__(self, store: Store, training_id: str, split_digest: str) -> None:
        self._store, self._prefix = store, f"trainings/{training_id}/scores-{split_digest[:16]}"
        seals = [key for key in store.list(f"{self._prefix}/step-") if key.endswith(f"/{MANIFEST}")]
        self.scored = [self._read(_step(key)) for key in seals]
        self._sweep()

    def add(self, new: Scored, weights: Path) -> None:
        """Add a score; if it is the best so far, ``weights`` (a folder) replace the earlier ones."""
        is_best = not self.scored or new.loss < self.best.loss
        if is_best:
            publish(self._store, weights, self._key("best", new.step))
        with tempfile.TemporaryDirectory(prefix="score-") as scratch:
            folder = Path(scratch) / "score"
            scorecards.write(folder, new.card, new.scores)
            folder.joinpath("tokens.json").write_bytes(msgspec.json.encode(new.tokens))
            publish(self._store, folder, self._key("step", new.step))
        self.scored.append(new)
        self._sweep()

    @property
    def best(self) -> Scored:
        """Return the score with the lowest completion loss, the earliest of equals."""
        return min(self.scored, key=lambda scored: scored.loss)

    @property
    def best_weights(self) -> str:
        """Return the key of the best checkpoint's published weights."""
        return self._key("best", self.best.step)

    def _sweep(self) -> None:
        """Remove weights that are not the best, including those half removed by a killed watcher."""
        kept = {self.best.step} if self.scored else set()
        for step in {_step(key) for key in self._store.list(f"{self._prefix}/best-")} - kept:
            withdraw(self._store, self._key("best", step))

    def _key(self, kind: str, step: int) -> str:
        return f"{self._prefix}/{kind}-{step:08d}"

    def _read(self, step: int) -> Scored:
        with tempfile.TemporaryDirectory(prefix="score-") as scratch:
            folder = Path(scratch) / "score"
            retrieve(self._store, self._key("step", step), folder)
            tokens = msgspec.json.decode(folder.joinpath("tokens.json").read_bytes(), type=int)
            return Scored(step, tokens, scorecards.read(folder), scorecards.read_scores(folder))


def _step(key: str) -> int:
    """Parse the step of ``…/best-00000012/weights.safetensors``."""
    return int(key.split("/")[-2].rpartition("-")[2])


def scores_without_gain(scored: Sequence[Scored]) -> int:
    """Count the scores since the last significant improvement.

    Significant means that the paired 90 % interval of the difference is below 0. Each score is compared with
    the last improvement, so that small gains add up until they are significant.
    """
    leader, without = scored[0], 0
    for challenger in scored[1:]:
        compared = scorecards.compare(
            [challenger.scores], [leader.scores], "completion_loss", margin=1.0, seed=SEED
        )
        leader, without = (challenger, 0) if compared.high < 0 else (leader, without + 1)
    return without
