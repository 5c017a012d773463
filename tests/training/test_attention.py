import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.training.documents import GROUP_WASTE, find_documents


def positions_of(rows: list[list[int]], width: int) -> torch.Tensor:
    """Positions of rows whose examples have these lengths; filler is 0, as ``collate`` writes it."""
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    for row, lengths in enumerate(rows):
        start = 0
        for length in lengths:
            positions[row, start : start + length] = torch.arange(length)
            start += length
    return positions


ROWS = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4)


@given(rows=ROWS)
def test_documents_cover_every_token_once_and_stay_within_one_example(rows):
    width = max(1, max(sum(row) for row in rows))
    positions = positions_of(rows, width)
    documents = find_documents(positions)
    laid = torch.cat([group.queries.flatten() for group in documents.groups])
    assert torch.equal(laid[documents.places], torch.arange(positions.numel()))
    flat = positions.flatten()
    for tokens, keys, mask in documents.groups:
        assert keys is tokens and mask is None
        for example in tokens.tolist():
            kept = sorted(set(example))
            assert [int(flat[token]) for token in kept] == list(
                range(len(kept))
            )  # one example, from its start
            assert example == kept + [kept[-1]] * (len(example) - len(kept))  # short ones repeat their last
            assert len(example) <= GROUP_WASTE * len(kept)


@pytest.mark.parametrize("length", [1, 5])
def test_a_block_of_one_example_is_one_group_without_waste(length):
    (group,) = find_documents(torch.arange(length)[None]).groups
    assert group.queries.tolist() == [list(range(length))]
