import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.ingest.splits import Splitter, carve, content_key


def example(question: str) -> Example:
    return Example(id="x", messages=(Message("user", question), Message("assistant", "yes")))


def test_content_key_ignores_case_and_white_space_and_nothing_else():
    assert content_key(example("Is  it\n Late?")) == content_key(example("is it late?"))
    assert content_key(example("is it late?")) != content_key(example("is it late"))


texts = st.lists(st.text("aA b\t", min_size=1, max_size=4), max_size=12)
shares = st.sampled_from([0.0, 0.2, 0.4])


@given(
    train=texts,
    valid=texts,
    test=texts,
    given=st.sets(st.sampled_from(["valid", "test"])),
    v=shares,
    t=shares,
)
def test_splits_never_share_content(train, valid, test, given, v, t):
    splitter = Splitter({"train", *given}, v, t, seed=1)
    placed: dict[str, set[str]] = {"train": set(), "valid": set(), "test": set()}
    for split, questions in (("test", test), ("valid", valid), ("train", train)):
        for question in questions if split in {"train", *given} else []:
            if place := splitter.place(example(question), split):
                placed[place].add(" ".join(question.lower().split()))
    assert not placed["train"] & placed["valid"]
    assert not placed["train"] & placed["test"]
    assert not placed["valid"] & placed["test"]
    if "test" in given:
        assert placed["test"] == {" ".join(question.lower().split()) for question in test}


def test_test_wins_then_valid():
    splitter = Splitter({"train", "valid", "test"}, 0.0, 0.0, seed=0)
    placed = [splitter.place(example("a"), split) for split in ("test", "valid", "train")]
    assert placed == ["test", None, None]
    assert [splitter.place(example("b"), split) for split in ("valid", "train", "valid")] == [
        "valid",
        None,
        "valid",
    ]


def test_given_splits_get_nothing_from_train():
    splitter = Splitter({"train", "test"}, 0.0, 0.5, seed=0)
    assert {splitter.place(example(str(i)), "train") for i in range(100)} == {"train"}


def test_carved_shares_are_kept_and_seeds_differ():
    keys = [content_key(example(str(i))) for i in range(4000)]
    first, second = ([carve(key, 0.1, 0.3, seed) for key in keys] for seed in (0, 1))
    assert abs(first.count("valid") / 4000 - 0.1) < 0.02  # four standard deviations
    assert abs(first.count("test") / 4000 - 0.3) < 0.03
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 1000


@pytest.mark.parametrize(("valid", "test"), [(-0.1, 0.0), (0.0, 1.0), (0.5, 0.5), (float("nan"), 0.0)])
def test_shares_that_leave_nothing_to_train_on_are_refused(valid, test):
    with pytest.raises(ValueError, match="leave something to train on"):
        Splitter({"train"}, valid, test, seed=0)
