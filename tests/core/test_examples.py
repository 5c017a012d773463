import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core.examples import Example, Message, plain
from deepcuts.components.ingest.splits import content_key
from deepcuts.components.select import duplicates

BLANK = "\u2800\u3164\u115f\u1160\uffa0\u034f\u17b4\ufe0f\U000e0100\ufffc\U0001d159\U00016fe4\ufdd0\uffff"
"""Letters, marks, symbols and noncharacters that show nothing."""
KEPT = "\t\n\v\f\r\x85"
"""Control characters that are white space."""
hidden = st.sampled_from(BLANK) | st.characters(categories=("Cc", "Cf"), exclude_characters=KEPT)
texts = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("aé \u0301ﬁ각Σß"), max_size=12)


def example(text: str) -> Example:
    return Example("x", (Message("user", text), Message("assistant", "yes")))


@given(text=texts, inside=st.lists(st.tuples(st.integers(0, 12), st.text(hidden, max_size=3)), max_size=4))
def test_nothing_invisible_between_two_letters_makes_another_text(text, inside):
    changed = text
    for place, more in inside:
        changed = changed[:place] + more + changed[place:]
    assert plain(changed) == plain(text) == plain(plain(text))
    assert content_key(example(changed)) == content_key(example(text))
    assert duplicates.text(example(changed)) == duplicates.text(example(text))


@given(
    words=st.lists(st.text("abc", min_size=1), min_size=1),
    spaces=st.text(" \t\n\r\v\f\x85\u00a0\u2003\u3000\u2028"),
)
def test_white_space_of_any_kind_and_length_is_one_space(words, spaces):
    assert plain(f" {spaces}".join(words)) == " ".join(words)


@given(st.characters(categories=("L", "N", "P", "S"), exclude_characters=BLANK + "\U00013441\U00013442"))
def test_what_can_be_seen_is_compared(character):
    if unicodedata.normalize("NFKC", character).split() == [unicodedata.normalize("NFKC", character)]:
        assert plain(f"a{character}b") != "ab"


@pytest.mark.parametrize("mark", ["\x07", "\u2800", "\x1f", "\uffa0"])
def test_select_takes_marked_copies_for_exact_duplicates(mark):
    said = ["the printer is broken", f"the pri{mark}nter is bro{mark}ken"]
    found = duplicates.exact([duplicates.text(example(text)) for text in said], [None, None])
    assert [(match.row, match.of) for match in found] == [(1, 0)]
