"""What a run may cite of a study: the same training only, and no saving that was not measured."""

import json

import msgspec
import pytest

from deepcuts.components.core.scorecards import Comparison
from deepcuts.components.core.store import open_store
from deepcuts.components.ledger import outcome, studied
from deepcuts.components.ledger.charges import charges
from deepcuts.components.ledger.ledger import balance
from deepcuts.components.ledger.report import markdown, page
from deepcuts.components.ledger.studied import StudiedArm, StudyRecord
from tests.components.test_ledger import POOLS, LedgerRun, receipt

FACTS = {
    "training_id": "ab12",
    "total_tokens": 1000,
    "recipe_packing": True,
    "recipe_keep_checkpoints": 2,
    "last_loss": 1.5,
}


def rows(**changed):
    made = receipt("finetune", "cpu", 10.0, facts=FACTS | changed)
    watched = receipt("watch", "cpu", 10.0, facts={"training_id": "ab12"})
    return charges({"finetune": [made], "watch": [watched]}, POOLS)


def compared(worse_by: float, low: float, high: float) -> Comparison:
    return Comparison("completion_loss", 0.03, worse_by, low, high, high < 0.03, 300, 5)


def record(**changed) -> StudyRecord:
    arm = StudiedArm(
        arm="lora",
        budget_tokens=1000,
        seeds=5,
        train_ratio=1.6,
        train_ratio_low=1.25,
        train_ratio_high=2.0,
        comparison=compared(0.003, -0.01, 0.02),
        trainings=[studied.trainings(rows(training_id="other seed")), studied.trainings(rows())],
    )
    arm = msgspec.structs.replace(arm, **changed)
    return StudyRecord(schema="study/1", study="cuts", date="2026-11-29", reference="plain", arms=[arm])


def test_a_run_that_trained_as_an_arm_did_cites_what_was_measured_of_it():
    (found,) = studied.savings([record()], rows(last_loss=1.4, recipe_keep_checkpoints=5))
    assert found.saves
    assert found.what == (
        "took 0.62 of the training CPU time (0.50 to 0.80 by seed) of the reference, plain, for the same "
        "quality (loss +0.003 nats a token, 90\u00a0% interval \u22120.010 to +0.020): study cuts of "
        "2026-11-29, 5 seeds, arm lora, 1,000 tokens"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"training_id": "other data"},
        {"recipe_packing": False},
        {"recipe_packing": None},
        {"total_tokens": 900},
        {"recipe_lora_rank": 8},
    ],
)
def test_any_other_training_cites_nothing(other):
    assert studied.savings([record()], rows(**other)) == []


def test_a_run_that_trained_nothing_cites_nothing_of_a_study_that_trained_nothing():
    assert (
        studied.savings([record(trainings=[[]])], charges({"fetch": [receipt("fetch", "cpu", 1.0)]}, POOLS))
        == []
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_ratio": 0.8}, "nothing: took 1.25 of the training CPU time"),
        (
            {"comparison": compared(0.4, 0.3, 0.5)},
            "nothing at equal quality: it is worse than the reference, plain",
        ),
        (
            {"comparison": compared(0.02, -0.01, 0.05)},
            "nothing at equal quality: it is not known to be as good as the reference, plain",
        ),
        ({"arm": "plain"}, "nothing: these settings are the reference, plain, of study cuts"),
        ({"comparison": None}, "not compared: arm lora shares no seed with the reference"),
    ],
)
def test_no_saving_is_claimed_that_was_not_measured_at_equal_quality(changed, said):
    (found,) = studied.savings([record(**changed)], rows())
    assert not found.saves and found.what.startswith(said)


def test_first_screen_says_what_was_saved_from_the_study_or_that_it_is_not_known():
    found = rows()
    book = balance(found, {}, {}, studied=studied.savings([record()], found))
    assert [(line.how, line.saves) for line in outcome.savings(found, book)] == [("from the study", True)]
    shown = page(book, found, {}, {})
    assert '<b class="better">from the study</b>took 0.62 of the training CPU time' in shown
    assert shown.index("from the study") < shown.index("Charts")
    assert "Saved, from the study: took 0.62" in markdown(book, found)
    without = balance(found, {}, {})
    assert [line.how for line in outcome.savings(found, without)] == ["not known"]
    assert "run deepcuts ablate STUDY" in page(without, found, {}, {})


def test_ledger_reads_the_studies_in_its_store_and_is_written_without_them(tmp_path, capsys):
    run = LedgerRun(tmp_path)
    run.task("finetune", receipt("finetune", "cpu", 10.0, facts=FACTS))
    store = open_store((tmp_path / "store").as_uri())
    store.put_bytes("studies/cuts.json", msgspec.json.encode(record()))
    store.put_bytes("studies/old.json", json.dumps({"schema": "study/0"}).encode())
    assert run.close(studies=(tmp_path / "store").as_uri()) == 0
    assert [saving["saves"] for saving in run.book["studied"]] == [True]
    assert "old.json is not a study of this version" in capsys.readouterr().err
    assert run.close(studies="s3://nowhere/x") == 0
    assert run.book["studied"] == [] and "ledger: studies: " in capsys.readouterr().err
