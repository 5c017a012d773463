"""Duplicates: what is found on planted ones, what is promised of the survivors."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.select import duplicates, near, views
from deepcuts.components.select.views import SHINGLES, WORDS
from tests.conftest import SHARED

GSM8K = SHARED / "gsm8k" / "train.jsonl"
words = st.lists(
    st.sampled_from(["the", "cat", "dog", "sat", "on", "a", "mat", "hill", "with", "hat"]), min_size=1
)
texts = st.lists(words.map(" ".join), min_size=1, max_size=20)


def gsm8k() -> list[dict[str, str]]:
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K} is missing: no real text to look for duplicates in")
    return [json.loads(line) for line in GSM8K.open()]


def questions() -> list[str]:
    return [record["question"] for record in gsm8k()]


def example(id: str, said: str, answer: str = "yes", label: str | None = None) -> Example:
    return Example(id=id, messages=(Message("user", said), Message("assistant", answer)), label=label)


def planted(originals: list[str], seed: int) -> dict[str, list[str]]:
    """Copies of ``originals`` by kind of change."""
    rng = random.Random(seed)

    def one_word(text: str) -> str:
        parts = text.split()
        parts[rng.randrange(len(parts))] = "something"
        return " ".join(parts)

    return {
        "exact": originals,
        "case and spacing": [text.upper().replace(" ", "  ") + "\n" for text in originals],
        "one word": [one_word(text) for text in originals],
        "sentence": [f"{text} Show your work, please." for text in originals],
    }


def normal(text: str) -> str:
    return duplicates.text(example("", text, "", label=""))


def test_near_duplicates_planted_in_gsm8k_are_found_and_originals_left_alone():
    originals = [text for text in questions() if len(text) > 120][:1000]
    for kind, copies in planted(originals[:250], seed=0).items():
        rows = [normal(text) for text in [*originals, *copies]]
        found = near.near_duplicates(near.sketch(rows, SHINGLES), [None] * len(rows), 0.7)
        hits = sum(match.of == match.row - len(originals) for match in found if match.row >= len(originals))
        alone = sum(match.row < len(originals) for match in found)
        assert hits >= 0.99 * len(copies), (kind, hits)
        assert alone <= 3, kind  # GSM8K has a few of its own


def test_band_rates_agree_with_what_happens_to_pairs_of_known_similarity():
    bands = near.choose_bands(0.7)
    assert bands.bands * bands.rows <= near.PERMUTATIONS
    assert bands.false_negative_rate < 0.05
    rng = random.Random(0)
    pairs = []
    for _ in range(400):
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=300))
        pairs.append((text, text[: rng.randrange(210, 300)]))
    rows = [text for pair in pairs for text in pair]
    matches = near.near_duplicates(near.sketch(rows, SHINGLES), [None] * len(rows), 0.7)
    found = {match.row for match in matches}
    above = [2 * i + 1 for i, (a, b) in enumerate(pairs) if near.jaccard(a, b, SHINGLES) >= 0.7]
    assert len(above) > 300
    assert 1 - len(found & set(above)) / len(above) < bands.false_negative_rate + 0.03


@settings(max_examples=60)
@given(texts, st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.sampled_from([SHINGLES, WORDS]))
def test_each_dropped_row_is_near_an_earlier_row_that_stays(rows, threshold, view):
    found = near.near_duplicates(near.sketch(rows, view), [None] * len(rows), threshold)
    dropped = {match.row for match in found}
    for match in found:
        assert match.of < match.row and match.of not in dropped
        one, other = (members(rows[row], view) for row in (match.row, match.of))
        assert len(one & other) / len(one | other) == match.similarity >= threshold


def members(text: str, view: views.View) -> set[str]:
    """Of ASCII words without punctuation, the plain way."""
    return set(text.split()) if view is WORDS else {f"{text}\0\0\0\0"[i : i + 5] for i in range(len(text))}


def test_words_find_the_paraphrase_that_shingles_cannot():
    rows = [
        "when ann came to rome, the bus was late. tickets queues rain umbrella wet shoes hotel sleep.",
        "the bus was late as soon as ann reached rome: sleep hotel shoes wet umbrella rain queues tickets.",
        "quite another text.",
    ]
    found = {
        view: near.near_duplicates(near.sketch(rows, view), [None] * 3, 0.6) for view in (SHINGLES, WORDS)
    }
    assert not found[SHINGLES]
    assert found[WORDS] == [(1, 0, 14 / 20)]


def test_words_mostly_merge_gsm8k_examples_of_other_answers_so_they_are_off_by_default():
    records = gsm8k()
    rows = [duplicates.text(example("", record["question"], record["answer"])) for record in records]
    found = near.near_duplicates(near.sketch(rows, WORDS), [None] * len(rows), 0.7)
    results = [record["answer"].split("####")[1].strip() for record in records]
    other = sum(results[match.row] != results[match.of] for match in found)
    print(f"{len(found)} of {len(rows)} go, {other} of them with another answer")
    assert other > len(found) / 2 > 0


def test_words_lose_the_punctuation_around_them_and_nothing_within():
    said = "“she said: (don't) pay $3.50, -3 or .5!” ... 愛。 - ¿qué?"
    assert views.words(said) == {"she", "said", "don't", "pay", "$3.50", "-3", "or", ".5", "愛", "-", "qué"}


def test_texts_without_a_word_stay():
    rows = ["?!", "...", "?!?!", "yes", "yes!"]
    found = near.near_duplicates(near.sketch(rows, WORDS), [None] * len(rows), 0.5)
    assert [(match.row, match.of) for match in found] == [(4, 3)]


def test_words_hash_alike_in_every_process():
    hashes, offsets = WORDS.hashes(["", "a ...", "b, a!"])
    assert offsets.tolist() == [0, 0, 1, 3]
    assert set(hashes.tolist()) == {13598978395210034536, 6098563729810403073}


def test_near_duplicates_of_other_labels_stay():
    rows = ["my card has not arrived yet"] * 4
    found = near.near_duplicates(near.sketch(rows, SHINGLES), ["a", "b", "a", None], 0.8)
    assert [(match.row, match.of) for match in found] == [(2, 0)]


def test_near_others_finds_the_row_that_stands_there_with_a_word_changed():
    held = ["how many apples does tom have left after he gives five away to his sister", "quite another"]
    rows = ["nothing of the kind at all", held[0].replace("tom", "tim")]
    found = near.near_others(near.sketch(rows, SHINGLES), near.sketch(held, SHINGLES), 0.7)
    assert [(match.row, match.of) for match in found] == [(1, 0)]


def test_near_others_of_nothing_is_nothing():
    assert near.near_others(near.sketch(["a text"], SHINGLES), near.sketch([], SHINGLES), 0.7) == []


def test_shingles_hash_alike_whatever_stands_around_them():
    alone = near.sketch(["short", "a", "ünïcode text"], SHINGLES)
    among = near.sketch(["before", "short", "between", "a", "ünïcode text", "after"], SHINGLES)
    assert (alone.signatures == among.signatures[[1, 3, 4]]).all()


def test_text_leaves_out_a_label_and_folds_case_width_and_spacing():
    assert duplicates.text(example("1", "Ｗhere  is\nMY card?", "card_arrival", "card_arrival")) == (
        "where is my card?"
    )
    assert duplicates.text(example("1", "2+2?", "4")) == "2+2? 4"


def test_exact_duplicates_keep_one_of_each_label_and_the_longest_answer_first():
    records = [example("short", "q", "a"), example("long", "q", "a longer one")]
    assert duplicates.by_preference(records) == [1, 0]
    assert duplicates.exact(["t", "t", "t"], ["a", "b", "a"]) == [(2, 0, 1.0)]
    assert duplicates.conflicts(["t", "t", "t", "u"], ["a", "b", "a", "a"]) == 1


@pytest.mark.slow
def test_near_duplicates_of_a_million_rows_take_near_linear_time():
    vocabulary = sorted({word for text in questions() for word in text.split()})
    rng = random.Random(0)
    rates = {}
    for count in (10_000, 100_000, 1_000_000):
        rows = [" ".join(rng.choices(vocabulary, k=26)) for _ in range(count * 9 // 10)]
        rows += [f"{row} indeed" for row in rows[: count - len(rows)]]
        began = time.monotonic()
        found = near.near_duplicates(near.sketch(rows, SHINGLES), [None] * count, 0.7)
        rates[count] = count / (time.monotonic() - began)
        assert len(found) == pytest.approx(count / 10, rel=0.01)
    assert rates[1_000_000] > rates[100_000] / 3, rates
