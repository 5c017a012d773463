"""The search finds the same label as summing up every label, and computes no token twice."""

import math

from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.training.label_search import LabelSearch, common_prefix, decide

TOKENS = st.integers(0, 3)


def nats_after(said: tuple[int, ...], token: int) -> float:
    """A made-up distribution of what follows ``said``."""
    weights = [1 + hash((said, other)) % 7 for other in range(4)]
    return -math.log(weights[token] / sum(weights))


def total(tail: list[int]) -> float:
    return sum(nats_after(tuple(tail[:place]), token) for place, token in enumerate(tail))


def computed_by(searches: list[LabelSearch], seen: list[tuple[int, tuple[int, ...]]]):
    """Compute stretches from the distribution; ``seen`` gets each token computed, with those before it."""

    def stem(search: LabelSearch, number: int) -> list[int]:
        if not number:
            return []
        return [*stem(search, search.stretches[number].parent), *search.tokens(number)]

    def compute(due: list[tuple[int, int]]) -> list[list[float]]:
        found = []
        for of, number in due:
            whole, own = stem(searches[of], number), len(searches[of].tokens(number))
            seen.extend((of, tuple(whole[:end])) for end in range(len(whole) - own + 1, len(whole) + 1))
            ends = [(place % own if own else -1, token) for place, token in searches[of].read_at(number)]
            found.append([nats_after(tuple(whole[: len(whole) - own + end + 1]), t) for end, t in ends])
        return found

    return compute


@given(st.lists(st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=12), max_size=4))
def test_the_search_finds_the_likeliest_of_all_labels_and_computes_each_token_once(asked):
    searches, seen = [LabelSearch(tails) for tails in asked], []
    found = decide(searches, computed_by(searches, seen))
    for tails, (label, nats) in zip(asked, found, strict=True):
        assert math.isclose(nats, total(tails[label]), abs_tol=1e-9)
        assert math.isclose(nats, min(map(total, tails)), abs_tol=1e-9)
    assert len(seen) == len(set(seen))
    stems = {(of, tuple(tail[:end])) for of, tails in enumerate(asked) for tail in tails for end in range(7)}
    assert set(seen) <= stems


def test_labels_that_begin_unlikely_are_never_computed():
    search = LabelSearch([[0, 1, 9], [0, 2, 9], [3, 4, 5, 9], [6, 4, 5, 9]])
    assert search.read_at(0) == [(-1, 0), (-1, 3), (-1, 6)]
    assert search.due(10) == [0]
    search.read(0, [0.5, 4.0, 5.0])
    assert search.due(1) == [1] and search.tokens(1) == [0]  # what two labels share, alone
    search.read(1, [1.0, 2.0])
    assert search.due(1) == [4] and search.tokens(4) == [1] and search.read_at(4) == [(-1, 9)]
    search.read(4, [0.1])
    assert search.decided and search.take()[0] == 0


def test_some_token_of_each_prompt_is_left_beside_what_all_share():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix([[1, 2], [1, 2, 4, 5]]) == 1
    assert common_prefix([[1, 2, 3]]) == 2
    assert common_prefix([[1], [2]]) == 0
