"""Select from files to files with a tiny base, and the pure functions that choose."""

import json
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.rayjob.settings import RayCluster
from deepcuts.components.select import budget, duplicates
from deepcuts.components.select.coverage import coverage
from deepcuts.components.select.loss import middling
from deepcuts.components.select.report import Dropped
from deepcuts.components.select.representations import directions, embed
from deepcuts.components.select.semantic import semantic_duplicates
from deepcuts.components.select.step import METHODS, select
from deepcuts.components.select.target import target
from deepcuts.components.training import scoring
from deepcuts.pipelines.distill import distill
from deepcuts.pipelines.finetune import finetune
from deepcuts.pipelines.retrain import retrain
from deepcuts.pipelines.tune import tune
from deepcuts.pipelines.tune_katib import tune_katib
from tests.training import tiny

torch.set_num_threads(1)
WORDS = ["red", "blue", "green", "fast", "slow", "cold", "warm", "round", "flat", "deep", "high", "dark"]


def question(number: int, label: str | None = None, id: str | None = None) -> Example:
    said = " ".join(random.Random(number).choices(WORDS, k=8))
    return Example(
        id=id or f"q{number}",
        messages=(Message("user", said), Message("assistant", label or str(number))),
        label=label,
    )


CORPUS = [question(number, label="rare" if number == 7 else f"class{number % 3}") for number in range(40)]
VALID = [question(number, label="class0") for number in range(100, 104)]
TEST = [question(number, label="class0") for number in range(200, 204)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.model("llama").save_pretrained(folder)
    tiny.TOKENIZER.save_pretrained(folder)
    return folder


LOCAL = {"engine": "local", "ray": RayCluster(), "ray_image": "", "nodepools": NodePools(()), "store": ""}


def run(tmp_path, base, corpus=CORPUS, valid=VALID, test=TEST, **changed):
    """The facts, what was kept, what was dropped, and the report of one selection."""
    for name, records in (("corpus", corpus), ("valid", valid), ("test", test)):
        examples.write(tmp_path / name, records)
    values = {"method": "deduplicate-only", "budget_tokens": 0, "near_threshold": 0.7, "seed": 0}
    facts = select(
        base=base,
        corpus=tmp_path / "corpus",
        valid=tmp_path / "valid",
        test=tmp_path / "test",
        cut=tmp_path / "cut",
        dropped=tmp_path / "dropped",
        report=tmp_path / "report.md",
        **values | {"word_threshold": 1.0, "semantic_threshold": 1.0, "embedder_uri": ""} | LOCAL | changed,
    )
    lines = (tmp_path / "dropped").read_bytes().splitlines()
    gone = [msgspec.json.decode(line, type=Dropped) for line in lines]
    return facts, examples.read(tmp_path / "cut"), gone, (tmp_path / "report.md").read_text()


def test_select_drops_planted_duplicates_and_leaks_with_their_reasons(tmp_path, base):
    shouted = msgspec.structs.replace(
        CORPUS[0],
        id="shouted",
        messages=(Message("user", CORPUS[0].messages[0].content.upper()), CORPUS[0].messages[1]),
    )
    longer = msgspec.structs.replace(
        CORPUS[1],
        id="longer",
        messages=(Message("user", CORPUS[1].messages[0].content + " too"), CORPUS[1].messages[1]),
    )
    relabelled = question(0, label="class2", id="relabelled")
    leak = question(200, label="class1", id="leak")
    facts, kept, gone, page = run(tmp_path, base, [*CORPUS, shouted, longer, relabelled, leak])
    reasons = {case.id: (case.reason, case.of) for case in gone}
    assert reasons.pop("leak") == ("leak", "q200")
    assert sorted(reasons.values()) in (
        [("duplicate", "q0"), ("near_duplicate", "longer")],
        [("duplicate", "shouted"), ("near_duplicate", "longer")],
    )
    assert "relabelled" in {record.id for record in kept}
    assert facts["label_conflicts"] == 1
    assert facts["kept"] == len(kept) == len(CORPUS) + 1
    assert "## Occurs, or nearly, in valid or test: 1" in page and "`leak`" in page


def reordered(example: Example, id: str, **changed) -> Example:
    said = " ".join(reversed(example.messages[0].content.split()))
    return msgspec.structs.replace(
        example, id=id, messages=(Message("user", said), *example.messages[1:]), **changed
    )


def test_select_finds_reordered_words_below_a_word_threshold_of_1_only(tmp_path, base):
    corpus = [question(0), reordered(question(0), "backwards")]
    _, kept, gone, _ = run(tmp_path, base, corpus)
    assert kept == corpus and gone == []
    facts, kept, gone, page = run(tmp_path, base, corpus, word_threshold=0.7)
    assert [(case.reason, case.similarity) for case in gone] == [("reordered", 1.0)]
    assert {kept[0].id, gone[0].id} == {"q0", "backwards"} and gone[0].of == kept[0].id
    assert facts["dropped_reordered"] == 1 and facts["reordered_seconds"] >= 0
    assert "in any order, same label: 1" in page and "Reordered: " in page


def test_select_keeps_reordered_words_of_other_labels_and_the_longer_answer(tmp_path, base):
    first = question(0, label="class0")
    corpus = [first, reordered(first, "other", label="class1")]
    _, kept, gone, _ = run(tmp_path, base, corpus, word_threshold=0.5)
    assert kept == corpus and gone == []
    corpus = [
        Example("short", (Message("user", "Ann is younger than Bob"), Message("assistant", "true"))),
        Example("long", (Message("user", "Bob is younger than Ann"), Message("assistant", "that is true"))),
    ]
    _, kept, gone, _ = run(tmp_path, base, corpus, near_threshold=0.95, word_threshold=0.8)
    assert [record.id for record in kept] == ["long"]
    assert (gone[0].reason, gone[0].of, gone[0].similarity) == ("reordered", "long", round(6 / 7, 4))


def test_select_takes_a_reordered_test_question_for_a_leak(tmp_path, base):
    asked = Example(
        "asked", (Message("user", "is ann older than bob"), Message("assistant", "yes")), label="yes"
    )
    leak = Example(
        "leak", (Message("user", "is bob older than ann?"), Message("assistant", "no")), label="no"
    )
    worse = Example(
        "worse", (Message("user", "so is bob older than ann?"), Message("assistant", "no")), label="no"
    )
    corpus = [*CORPUS, leak, worse]
    _, kept, _, _ = run(tmp_path, base, corpus, test=[asked], near_threshold=0.95)
    assert kept == corpus
    _, kept, gone, _ = run(tmp_path, base, corpus, test=[asked], near_threshold=0.95, word_threshold=0.8)
    leaks = {(case.id, case.of, case.similarity) for case in gone if case.reason == "leak"}
    assert {("leak", "asked", 1.0), ("worse", "asked", round(5 / 6, 4))} <= leaks


@pytest.mark.parametrize("pipeline", [distill, finetune, retrain, tune, tune_katib])
def test_who_is_older_than_whom_is_kept_apart_by_default(tmp_path, base, pipeline):
    defaults = {
        name: pipeline.component_spec.inputs[name].default for name in ("near_threshold", "word_threshold")
    }
    said = ("Ann is older than Bob", "Bob is older than Ann")
    corpus = [Example(text, (Message("user", text), Message("assistant", "noted"))) for text in said]
    _, kept, _, _ = run(tmp_path, base, corpus, **defaults)
    assert kept == corpus


@pytest.mark.parametrize("method", METHODS[1:])
def test_select_spends_its_budget_the_same_way_whatever_the_order_of_the_file(tmp_path, base, method):
    mixed = random.Random(1).sample(CORPUS, len(CORPUS))
    spent = {"method": method, "budget_tokens": 800}
    facts, kept, gone, _ = run(tmp_path, base, **spent)
    again, kept_again, _, _ = run(tmp_path, base, mixed, **spent)
    assert {record.id for record in kept} == {record.id for record in kept_again}
    assert 800 - 80 < facts["tokens"] <= 800
    assert [record for record in CORPUS if record in kept] == kept  # nothing invented, order of the corpus
    assert {record.id for record in kept} | {case.id for case in gone} == {record.id for record in CORPUS}
    assert {"rare", "class0", "class1", "class2"} == {record.label for record in kept}
    assert (facts["scoring_tokens"] > 0) == (method != "random")


def test_select_keeps_all_and_says_so_when_the_budget_is_above_the_corpus(tmp_path, base):
    facts, kept, _, page = run(tmp_path, base, method="coverage", budget_tokens=10**9)
    assert kept == CORPUS and facts["scoring_tokens"] == 0
    assert "budget above the corpus, all 40 kept" in facts["cut_select"] and "all 40 kept" in page


def test_select_without_a_budget_keeps_all_that_is_unique_whatever_chooses(tmp_path, base):
    twice = [*CORPUS, msgspec.structs.replace(CORPUS[0], id="again")]
    plain, kept, _, _ = run(tmp_path, base, twice)
    facts, same, _, _ = run(tmp_path, base, twice, method="random")
    assert len(same) == len(CORPUS) and same == kept
    assert facts["cut_select"] == plain["cut_select"] == "off: deduplicate-only: 40 kept"


def test_select_of_nothing_but_one_text_keeps_one(tmp_path, base):
    copies = [question(1, label="a", id=f"copy{i}") for i in range(5)]
    facts, kept, _, _ = run(tmp_path, base, copies)
    assert len(kept) == 1 and facts["dropped_duplicate"] == 4


def test_select_finds_semantic_duplicates_within_a_label_only(tmp_path, base):
    facts, kept, gone, _ = run(tmp_path, base, semantic_threshold=0.05)
    labels = {record.id: record.label for record in CORPUS}
    pairs = [(labels[case.id], labels[case.of]) for case in gone if case.reason == "semantic_duplicate"]
    assert pairs and all(one == other for one, other in pairs)
    assert {record.label for record in kept} == set(labels.values())
    assert facts["scoring_tokens"] == facts["corpus_tokens"]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"method": "covrage", "budget_tokens": 9}, ValueError, "unknown method: did you mean 'coverage'"),
        ({"method": "coverage"}, ValueError, "at least 1"),
        ({"budget_tokens": 5}, ValueError, "give 0 to deduplicate-only"),
        ({"method": "random", "budget_tokens": 3}, ValueError, "shortest example"),
        ({"corpus": []}, DataError, "is empty"),
        ({"corpus": TEST}, DataError, "every example is in valid or test"),
        ({"corpus": TEST, "word_threshold": 0.7}, DataError, "every example is in valid or test"),
        ({"method": "target", "budget_tokens": 99, "valid": []}, DataError, "share no word"),
        (
            {
                "method": "target",
                "budget_tokens": 99,
                "valid": [Example("v", (Message("user", "xyz"), Message("assistant", "w")))],
            },
            DataError,
            "share no word",
        ),
    ],
)
def test_select_refuses_bad_input_and_leaves_nothing(tmp_path, base, changed, error, words):
    with pytest.raises(error, match=words):
        run(tmp_path, base, **changed)
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize("method", ["loss", "coverage"])
def test_select_refuses_scores_that_are_not_finite(tmp_path, method):
    model = tiny.model("llama")
    model.model.norm.weight.data[:] = tiny.TOO_LARGE
    model.save_pretrained(tmp_path / "base")
    tiny.TOKENIZER.save_pretrained(tmp_path / "base")
    with pytest.raises(DataError, match="no finite score"):
        run(tmp_path, tmp_path / "base", method=method, budget_tokens=300)


def test_embed_is_the_weighted_mean_of_each_example_alone():
    model = tiny.model("llama").eval()
    data = scoring.render_all(CORPUS[:3], tiny.TOKENIZER)
    vectors = embed(model, data)
    for vector, rendered in zip(vectors, data, strict=True):
        with torch.inference_mode():
            states = model.model(input_ids=torch.tensor([rendered.ids])).last_hidden_state[0].numpy()
        weights = np.arange(1, len(states) + 1) / np.arange(1, len(states) + 1).sum()
        np.testing.assert_allclose(vector, weights @ states, atol=1e-5)


def points(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return directions(vectors, vectors.mean(0))


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 5))
def test_orders_hold_each_row_once(count, seed):
    unit = points(count, seed)
    orders = [
        coverage(unit, [3] * count, 30, seed),
        target(unit, points(3, seed + 9)),
        middling(unit[:, 0].tolist()),
        budget.shuffled([str(i) for i in range(count)], seed),
    ]
    assert [sorted(order) for order in orders] == [list(range(count))] * 4


def test_coverage_takes_one_of_each_cluster_before_a_second():
    centres = np.eye(4, dtype=np.float32)
    unit = np.repeat(centres, [10, 5, 3, 2], axis=0)
    order = coverage(unit, [1] * 20, 4, seed=0)
    assert [int(unit[row].argmax()) for row in order[:4]] == [0, 1, 2, 3]


def test_coverage_is_as_greedy_as_plain_greedy():
    unit = points(30, 3)
    covered, wanted = np.zeros(30, dtype=np.float32), []
    for _ in range(8):
        gains = (np.maximum(np.maximum(unit @ unit.T, 0), covered) - covered).sum(1)
        gains[wanted] = -1
        wanted.append(int(gains.argmax()))
        covered = np.maximum(covered, unit @ unit[wanted[-1]])
    assert coverage(unit, [1] * 30, 8, seed=0)[:8] == wanted


def test_target_serves_the_wanted_in_turn():
    unit = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    assert target(unit, np.eye(2, dtype=np.float32)) == [0, 2, 1, 3]


def test_middling_puts_the_trivial_and_the_hopeless_last():
    assert middling([0.1, 9.0, 2.0, 1.9, 2.1])[:3] == [2, 3, 4]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from("abc")), min_size=1), st.integers(1, 300))
def test_fill_never_passes_the_budget_nor_empties_a_class_it_can_afford(rows, budget_tokens):
    lengths, labels = [row[0] for row in rows], [row[1] for row in rows]
    kept = budget.fill(range(len(rows)), lengths, labels, budget_tokens)
    spent = sum(lengths[row] for row in kept)
    assert spent <= budget_tokens and len(set(kept)) == len(kept)
    left = [lengths[row] for row in range(len(rows)) if row not in kept]
    assert not left or spent + min(left) > budget_tokens
    if budget_tokens >= 60:
        assert {labels[row] for row in kept} == set(labels)


def test_semantic_duplicates_are_like_one_that_stays_across_blocks(monkeypatch):
    monkeypatch.setattr("deepcuts.components.select.semantic.CHUNK", 4)
    unit = points(50, 1)
    found = semantic_duplicates(unit, [None] * 50, 0.6)
    gone = {match.row for match in found}
    for match in found:
        assert match.of < match.row and match.of not in gone
        assert unit[match.row] @ unit[match.of] == pytest.approx(match.similarity, abs=1e-5)
        assert match.similarity >= 0.6
    stay = sorted(set(range(50)) - gone)
    assert (np.triu(unit[stay] @ unit[stay].T, 1) < 0.6).all()


def test_select_receipt_can_be_encoded(tmp_path, base):
    facts, *_ = run(tmp_path, base, method="loss", budget_tokens=400)
    assert json.loads(json.dumps(facts))["score_seconds"] >= 0


def test_semantic_duplicates_of_many_rows_are_those_of_all_pairs(monkeypatch):
    drawn = np.random.default_rng(0)
    centres = drawn.normal(size=(500, 16))[drawn.integers(0, 500, 3000)]
    unit = directions((centres + 0.3 * drawn.normal(size=centres.shape)).astype(np.float32), np.zeros(16))
    labels = [str(number % 2) for number in range(len(unit))]
    exact = {match.row for match in semantic_duplicates(unit, labels, 0.95)}
    monkeypatch.setattr("deepcuts.components.select.semantic.EXACT_ROWS", 0)
    found = semantic_duplicates(unit, labels, 0.95)
    rows = {match.row for match in found}
    assert (
        len(exact) > 500 and len(rows & exact) / len(exact) > 0.98 and len(rows - exact) / len(exact) < 0.02
    )
    for row, of, cosine in found:
        assert of < row and of not in rows and labels[of] == labels[row]
        assert cosine == pytest.approx(float(unit[row] @ unit[of])) and cosine >= 0.95
    assert found == semantic_duplicates(unit, labels, 0.95)


def test_select_compares_by_a_sentence_transformers_model_where_one_is_given(tmp_path, base):
    ours, _, gone, _ = run(tmp_path, base, semantic_threshold=0.9)
    parts = [Transformer(str(base)), Pooling(tiny.model("llama").config.hidden_size, "mean")]
    tokenizer = parts[0].tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    SentenceTransformer(modules=parts).save_pretrained(str(tmp_path / "embedder"))
    uri = (tmp_path / "embedder").as_uri()
    theirs, kept, others, _ = run(tmp_path, base, semantic_threshold=0.9, embedder_uri=uri)
    assert {case.id for case in gone} != {case.id for case in others}
    model = SentenceTransformer(str(tmp_path / "embedder"), local_files_only=True)
    words = {record.id: duplicates.text(record) for record in CORPUS}
    vectors = dict(zip(words, model.encode(list(words.values())), strict=True))
    centre = np.mean([vectors[record.id] for record in CORPUS if record.id in unique(gone, others)], 0)
    for case in others:
        if case.reason == "semantic_duplicate":
            one, other = vectors[case.id] - centre, vectors[case.of] - centre
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert cosine == pytest.approx(case.similarity, abs=1e-3)


def unique(*drops: list[Dropped]) -> set[str]:
    """Examples that come as far as the semantic comparison."""
    before = {case.id for drop in drops for case in drop if case.reason != "semantic_duplicate"}
    return {record.id for record in CORPUS} - before


def test_select_refuses_an_embedder_that_is_none(tmp_path, base):
    with pytest.raises(DataError, match="not a sentence-transformers model"):
        run(tmp_path, base, semantic_threshold=0.9, embedder_uri=str(base))
