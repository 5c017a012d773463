"""The arithmetic of the search benchmark, on curves that keep their rank."""

import pytest

from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import Dimension, grid, key
from tests.benchmarks import search
from tests.benchmarks.search import UNIT_TOKENS, Segment

MADE = Search((1, 3, 9, 27), 3, 1, 27)
SPACE = search.SPACE | {"learning_rate": Dimension(kind="choice", values=search.RATES)}


def curves(flip: bool = False) -> dict[str, list[Segment]]:
    """A second a unit, one to start and score; with ``flip`` the ranks at the top are reversed."""
    found = {}
    for place, values in enumerate(grid(SPACE)):
        losses = [place + 1 / level for level in MADE.levels]
        if flip:
            losses[-1] = 27.0 - place
        units = (1, 2, 6, 18)
        found[key(values)] = [
            Segment(loss, unit * UNIT_TOKENS, unit + 1.0, float(unit))
            for loss, unit in zip(losses, units, strict=True)
        ]
    return found


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_search_that_resumes_spends_81_units_one_that_restarts_108_and_the_grid_729(parallel):
    made = curves()
    ended = search.searched(MADE, SPACE, made, 0, parallel)
    assert search.resuming(ended) == (81.0, 81.0 + 40, 40)
    assert search.restarting(ended, made) == (108.0, 108.0 + 40, 40)
    assert search.full(made) == (729.0, 729.0 + 27, 27)
    assert search.regret(ended, made) == 0


def test_regret_is_against_the_grids_best_at_the_end_not_at_a_rung():
    made = curves(flip=True)
    ended = search.searched(MADE, SPACE, made, 0, 1)
    assert search.regret(ended, made) == pytest.approx(26)
