"""What is scored of a valid split: all where it is cheap, else one sample for all who score."""

from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.training import sampling
from deepcuts.components.training.render import Rendered
from tests.training import tiny


def split(lengths: list[int]) -> list[Rendered]:
    return [Rendered([1] * length, [1] * length) for length in lengths]


@given(lengths=st.lists(st.integers(2, 40), max_size=120), tokens=st.integers(0, 3000))
def test_a_sample_keeps_to_its_tokens_or_to_the_least_examples(lengths, tokens):
    data = split(lengths)
    drawn = sampling.draw(data, tokens)
    assert drawn == sorted(set(drawn)) and len(drawn) >= min(len(data), sampling.MIN_EXAMPLES)
    assert sum(lengths[i] for i in drawn) <= tokens or len(drawn) <= sampling.MIN_EXAMPLES
    if sum(lengths) <= tokens:
        assert len(drawn) == len(data)
    assert set(drawn) <= set(sampling.draw(data, tokens + 100))  # a larger share compares on these too


def test_the_share_is_of_what_training_costs():
    assert sampling.affordable_tokens(tiny.recipe(budget_tokens=20_000)) == 6000
    assert sampling.affordable_tokens(tiny.recipe(budget_tokens=20_000, scoring_share=0.5)) == 30_000


def test_only_another_sample_has_another_name():
    assert sampling.key("digest", [0, 1, 2], 3) == "digest"
    names = {sampling.key("digest", drawn, 3) for drawn in ([0, 1, 2], [0, 1], [0, 2])}
    assert len(names) == 3


def test_what_was_left_out_is_said():
    assert sampling.facts([1, 4], 9) == {"valid_examples": 2, "valid_examples_left_out": 7}
