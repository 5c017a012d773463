"""The watcher's memory: whole wherever the watcher was killed; and when a run counts as stuck."""

import random
from pathlib import Path

import pytest

from deepcuts.components.core import scorecards
from deepcuts.components.core.scorecards import Score
from deepcuts.components.core.store import FileStore
from deepcuts.components.watch.history import History, Scored, scores_without_gain


class Killed(BaseException):
    """What SIGKILL does to the watcher: nothing more happens."""


class DyingStore(FileStore):
    """A store whose client dies before its write number ``writes_left`` + 1."""

    def __init__(self, root: Path, writes_left: int) -> None:
        super().__init__(root)
        self.writes_left = writes_left

    def _count(self) -> None:
        if self.writes_left == 0:
            raise Killed
        self.writes_left -= 1

    def put(self, key: str, path: Path) -> None:
        self._count()
        super().put(key, path)

    def put_bytes(self, key: str, data: bytes) -> None:
        self._count()
        super().put_bytes(key, data)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


def scored(step: int, loss: float, noise: float = 0.0) -> Scored:
    draw = random.Random(step)
    lines = [Score(str(i), 10 * (loss + draw.gauss(0, noise)), 10) for i in range(40)]
    return Scored(step, 100 * step, scorecards.summarise(lines, f"model {step}", "split", 0), lines)


def weights(folder: Path, step: int) -> Path:
    place = folder / f"weights-{step}"
    place.mkdir(exist_ok=True)
    place.joinpath("weights.safetensors").write_text(f"of step {step}")
    return place


RUN = [(1, 3.0), (2, 2.0), (3, 2.5), (4, 1.0)]


def test_history_is_whole_wherever_its_watcher_was_killed(tmp_path):
    unharmed = DyingStore(tmp_path / "whole", 1000)
    history = History(unharmed, "run", "split")
    for step, loss in RUN:
        history.add(scored(step, loss), weights(tmp_path, step))
    for writes in range(1000 - unharmed.writes_left):
        root = tmp_path / f"killed-after-{writes}"
        dying = DyingStore(root, writes)
        with pytest.raises(Killed):
            history = History(dying, "run", "split")
            for step, loss in RUN:
                history.add(scored(step, loss), weights(tmp_path, step))
        again = History(FileStore(root), "run", "split")
        known = [one.step for one in again.scored]
        assert known == [step for step, _ in RUN][: len(known)]
        if known:
            assert best_weights(root, again) == f"of step {again.best.step}"
        for step, loss in RUN[len(known) :]:
            again.add(scored(step, loss), weights(tmp_path, step))
        assert again.scored == history_of(unharmed).scored
        assert best_weights(root, again) == "of step 4"
        assert len(list(root.glob("trainings/run/scores-*/best-*/*.safetensors"))) == 1


def history_of(store: FileStore) -> History:
    return History(store, "run", "split")


def best_weights(root: Path, history: History) -> str:
    return root.joinpath(history.best_weights, "weights.safetensors").read_text()


def test_history_of_another_split_is_another_one(tmp_path):
    store = FileStore(tmp_path)
    History(store, "run", "a").add(scored(1, 2.0), weights(tmp_path, 1))
    assert History(store, "run", "b").scored == []


@pytest.mark.parametrize(
    ("losses", "without"),
    [
        ([2.0], 0),
        ([2.0, 1.5, 1.0], 0),
        ([2.0, 1.5, 1.5, 1.5], 2),
        ([2.0, 2.1, 2.2, 1.5], 0),
        ([2.0, 1.0, 1.2, 1.1, 1.05], 3),
    ],
)
def test_scores_without_gain_counts_since_the_last_better_one(losses, without):
    run = [scored(step, loss, noise=0.0) for step, loss in enumerate(losses)]
    assert scores_without_gain(run) == without


def test_many_small_gains_add_up_to_one_that_shows():
    steps = [scored(step, 2.0 - 0.02 * step, noise=0.2) for step in range(12)]
    assert (
        scores_without_gain(steps[:2]) == 1
    )  # 0.02 nats are lost in the noise of 40 examples: 0.2 / sqrt(20)
    assert scores_without_gain(steps) < 11


def test_chance_is_no_gain():
    run = [scored(step, 2.0, noise=0.2) for step in range(6)]
    assert scores_without_gain(run) >= 4
