"""The first lines of a report: status, release, quality in the task's terms, cuts, savings, answers."""

import math

import pytest

from deepcuts.components.core.scorecards import Interval, Sample, Scorecard
from deepcuts.components.ledger import outcome
from deepcuts.components.ledger.charges import charges
from deepcuts.components.ledger.ledger import Answers, answers, balance
from tests.components.test_ledger import POOLS, receipt

RELEASE = {"release": "file:///my%20runs/store/releases/bot/0123", "version": "0123", "bytes": 2048}


def card(loss: float, **shares: float) -> Scorecard:
    more = {name: Interval(share, share - 0.1, share + 0.1) for name, share in shares.items()}
    return Scorecard("m", "s", 10, 100, Interval(loss, loss - 0.1, loss + 0.1), 2.0, **more)


def rows(*made):
    found = {}
    for one in made:
        found.setdefault(one.step, []).append(one)
    return charges(found, POOLS)


def publish(**changes):
    return receipt("publish", "cpu", 1.0, facts=RELEASE, **changes)


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ({"finetune": "ok", "publish": "ok"}, "released"),
        ({"finetune": "ok"}, "nothing released"),
        ({"finetune": "data"}, "failed"),
        ({"finetune": "preempted"}, "interrupted"),
        ({"finetune": "preempted", "fetch": "data"}, "failed"),
        ({"finetune": "ok", "publish": "gate"}, "refused"),
    ],
)
def test_status_is_that_of_the_worst_task(ends, status):
    made = [
        receipt(step, "cpu", 1.0, end_reason=end, facts=RELEASE if (step, end) == ("publish", "ok") else {})
        for step, end in ends.items()
    ]
    found = rows(*made)
    assert outcome.status(found) == status
    book = balance(found, {}, {})
    assert (outcome.headline(found, book).split()[0].lower().rstrip(":")) == status.split()[0]
    assert ("chat" in outcome.next_command(found, book)) == (status == "released")


def test_a_task_that_was_interrupted_and_then_ended_well_does_not_count():
    found = charges(
        {
            "finetune": [
                receipt("finetune", "cpu", 1.0, end_reason="preempted", attempt=1),
                receipt("finetune", "cpu", 1.0, attempt=2),
            ],
            "publish": [publish()],
        },
        POOLS,
    )
    assert outcome.status(found) == "released"


def test_a_chain_whose_step_left_no_receipt_is_what_stopped_the_run():
    message = "ingest ended with exit code 137"
    chain = receipt("chain", "cpu", 1.0, end_reason="infrastructure", message=message)
    found = charges({"prepare_start": [chain], "fetch_data": [receipt("fetch", "cpu", 1.0)]}, POOLS)
    assert outcome.status(found) == "failed" and outcome.reason(found) == message
    book = balance(found, {}, {})
    assert outcome.headline(found, book).startswith("Failed: prepare failed because")
    stopped = balance(found, {}, {}, interrupted=True)
    assert outcome.headline(found, stopped) == "Interrupted in prepare: run the same command to resume"
    assert outcome.done(found) == "fetch data"


def test_what_was_released_and_where():
    found = rows(publish())
    book = balance(found, {}, {})
    assert outcome.headline(found, book) == "Released bot, 2 KiB, at /my runs/store/releases/bot/0123"
    assert outcome.next_command(found, book) == "deepcuts chat '/my runs/store/releases/bot/0123'"
    assert outcome.store_of("s3://b/x/releases/bot/1") == "s3://b/x"


def test_quality_is_in_the_terms_of_the_task_and_the_loss_comes_second():
    found = rows(publish())
    book = balance(found, {"before": card(3.0, exact_match=0.1), "after": card(1.0, exact_match=0.6)}, {})
    first, second = outcome.quality(book)
    assert first == ("exact match", "10.0\u00a0%", "60.0\u00a0%", "50.0\u00a0% to 70.0\u00a0%")
    assert second[:3] == ("completion loss", "3.000", "1.000")
    without = balance(found, {"before": card(3.0)}, {})
    assert [(each.name, each.after) for each in outcome.quality(without)] == [
        ("perplexity", None),
        ("completion loss", None),
    ]
    known = outcome.quality(without)
    low, high = (float(nats) for nats in known[1].range.split(" to "))
    assert known[0].range == f"{math.exp(low):.4g} to {math.exp(high):.4g}", (
        "a perplexity has its interval, too"
    )
    assert outcome.quality(balance(found, {}, {})) == []


def test_the_reason_is_what_the_first_failed_task_said_at_its_last_attempt():
    early, late = (
        receipt("ingest", "cpu", 1.0, end_reason="data", attempt=n, message=f"bad {n}") for n in (1, 2)
    )
    found = charges({"fetch": [receipt("fetch", "cpu", 1.0)], "ingest": [early, late]}, POOLS)
    assert outcome.reason(found) == "bad 2"
    assert outcome.reason(rows(publish())) == ""


def test_cuts_come_with_their_whole_reason_applied_first():
    long = "because " * 60
    found = rows(
        receipt("quantize", "cpu", 1.0, facts={"cut_quantize": f"refused: {long}"}),
        receipt("finetune", "cpu", 1.0, facts={"cut_compile": "off: short", "cut_lora": "applied: rank 16"}),
    )
    cards = outcome.cut_cards(found)
    assert [(one.name, one.outcome) for one in cards] == [
        ("LoRA", "applied"),
        ("quantize", "refused"),
        ("compile", "off"),
    ]
    assert cards[1].reason == long.strip() or cards[1].reason == long


def test_what_a_chain_repeats_of_its_steps_is_shown_once():
    facts = {"cut_quantize": "refused: none is cheaper"}
    chain = receipt("chain", "cpu", 1.0, facts=facts)
    both = outcome.cut_cards(rows(chain, receipt("quantize", "cpu", 1.0, facts=facts)))
    assert [card.row.step for card in both] == ["quantize"]
    assert [card.row.step for card in outcome.cut_cards(rows(chain))] == ["chain"]


def test_savings_say_how_they_are_known_and_nothing_is_claimed_of_a_run_that_was_not_made():
    found = rows(receipt("quantize", "cpu", 1.0, facts={"bytes_before": 100, "bytes_after": 60}))
    made = outcome.savings(found, balance(found, {}, {}))
    assert [one.how for one in made] == ["measured here", "not known"]
    assert made[0].what.startswith("40\u00a0% of the served bytes")
    worse = rows(receipt("quantize", "cpu", 1.0, facts={"bytes_before": 100, "bytes_after": 100}))
    assert [one.how for one in outcome.savings(worse, balance(worse, {}, {}))] == ["not known"]


def test_answers_before_and_after_are_put_together_by_question():
    given = {
        "before": [Sample("1", "q1", "e1", "b1"), Sample("2", "q2", "e2", "b2")],
        "after": [Sample("2", "q2", "e2", "a2"), Sample("1", "q1", "e1", "a1")],
        "served": [Sample("1", "q1", "e1", "s1")],
    }
    assert answers(given) == [
        Answers("q1", "e1", {"before": "b1", "after": "a1"}),
        Answers("q2", "e2", {"before": "b2", "after": "a2"}),
    ]
    assert answers({}) == []


def test_model_and_data_are_named():
    found = charges(
        {
            "fetch_model": [receipt("fetch", "cpu", 1.0, facts={"source": "hf://a/b@1", "digest": "x"})],
            "fetch_data": [receipt("fetch", "cpu", 1.0, facts={"source": "file:///d.jsonl", "digest": "y"})],
        },
        POOLS,
    )
    assert outcome.sources(found) == ("hf://a/b@1", "/d.jsonl")
    assert outcome.sources(rows(publish())) == ("–", "–")
