"""The retrain step: decisions and leases in a real store, from real Scorecards."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import cli, scorecards
from deepcuts.components.core.scorecards import Score
from deepcuts.components.ledger.ledger import balance
from deepcuts.components.retrain.step import retrain

FRESH, STALE = 1.0, 2.0
"""Nats an answer token; at $1 a nat and 100 predictions, $100 and $200 a window."""


class Service:
    """A deployment whose windows are scored and decided on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = (folder / "store").as_uri()

    def ask(self, window: str, loss: float, model: str = "one", **changes: Any) -> dict[str, Any]:
        """Facts of the step, beside what it left for the pipeline; ``code`` where it failed."""
        run = changes.get("run", f"run-{window}")
        place = self.folder / f"{window}-{run}-{model}"
        scores = [Score(str(i), 10 * loss, 10, label_correct=i < 6) for i in range(8)]
        scorecards.write(place / "card", scorecards.summarise(scores, model, "split", 0), scores)
        flags = {
            "scorecard": place / "card",
            "store": self.store,
            "service": "support",
            "window": window,
            "run": run,
            "metric": "completion_loss",
            "policy": "res",
            "usd_per_unit": 1.0,
            "predictions": 100,
            "retraining_usd": 150.0,
            "ledger_uri": "",
            "price_ratio": 1.0,
            "period": 4,
            "horizon": 2,
            "memory": 50,
            "lease_hours": 1.0,
            "seed": 0,
            "decision": place / "decision.json",
            "report": place / "report.md",
            "retrain": place / "retrain",
        } | changes
        words = [w for name, value in flags.items() for w in (f"--{name.replace('_', '-')}", str(value))]
        code = cli.run(retrain, [*words, "--receipt", str(place / "receipt.json")])
        facts = json.loads((place / "receipt.json").read_text())["facts"]
        if code:
            return {"code": code}
        return facts | {
            "code": code,
            "told": (place / "retrain").read_text(),
            "decision": json.loads((place / "decision.json").read_text()),
            "report": (place / "report.md").read_text(),
        }


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def drifted(service: Service, **changes: Any) -> dict[str, Any]:
    """Two fresh windows, two stale ones: the fourth is the first that calls for a retraining."""
    for number, loss in enumerate([FRESH, FRESH, STALE]):
        assert service.ask(f"w{number}", loss, **changes)["told"] == "false"
    return service.ask("w3", STALE, **changes)


def test_retrain_waits_for_drift_that_lasts_and_says_why(service):
    told = drifted(service)
    assert told["told"] == told["retrain"] == "true"
    decision = told["decision"]
    assert decision["cycle_usd"] == [100, 100, 200, 200] and decision["cost_usd"] == 150
    assert decision["numbers"]["benefit_usd"] == 200 and decision["numbers"]["lambda"] == 0.5
    says = {advice["policy"]: advice["retrain"] for advice in decision["alternatives"]}
    assert says["periodic"] and says["ski-rental"] and says["always"] and not says["never"]
    assert "**Retrain** after window w3 of support" in told["report"] and "| never | wait |" in told["report"]


def test_retrain_asked_twice_gives_the_first_decision_and_no_second_run(service):
    first = drifted(service)
    again = service.ask("w3", FRESH, run="other")
    assert again["told"] == "false" and again["decided_before"] is True
    assert again["decision"] == first["decision"]
    assert "Decided by run run-w3, so this run does not" in again["report"]


def test_retrain_tried_again_by_its_own_run_goes_on(service):
    first = drifted(service)
    assert service.ask("w3", STALE)["decision"] == first["decision"]
    assert service.ask("w3", STALE)["told"] == "true"


def test_retrain_after_a_crash_between_lease_and_decision_goes_on_in_its_own_run_only(service):
    drifted(service)
    (service.folder / "store/retraining/support/windows/w3.json").unlink()
    assert service.ask("w3", STALE, run="other")["told"] == "false"
    assert service.ask("w3", STALE)["told"] == "true"


def test_retrain_in_a_burst_of_windows_starts_one_run(service):
    drifted(service)
    for window in ("w4", "w5", "w6"):
        told = service.ask(window, STALE, policy="always")
        assert told["told"] == "false"
        assert "retraining of window w3 may still be under way" in told["decision"]["why"]


def test_retrain_asked_for_many_windows_at_once_starts_one_run(service):
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: service.ask(f"w{n}", STALE, policy="always")["told"], range(8)))
    assert told.count("true") == 1


def test_retrain_asked_at_once_for_one_window_starts_one_run(service):
    with ThreadPoolExecutor(8) as pool:
        told = list(
            pool.map(lambda n: service.ask("w0", STALE, policy="always", run=f"r{n}")["told"], range(8))
        )
    assert told.count("true") == 1


def test_retrain_for_a_window_older_than_the_newest_starts_no_run(service):
    assert service.ask("w9", FRESH)["told"] == "false"
    late = service.ask("w8", STALE, policy="always")
    assert late["told"] == "false" and "w9, a newer one, is already decided" in late["decision"]["why"]


def test_retrain_may_begin_again_with_a_new_model_or_after_the_lease(service):
    drifted(service)
    assert service.ask("w4", FRESH, policy="always", model="two")["told"] == "true"
    assert service.ask("w5", FRESH, policy="always", model="two")["told"] == "false"
    assert service.ask("w6", FRESH, policy="always", model="two", lease_hours=1e-9)["told"] == "true"


def test_retrain_counts_windows_anew_after_a_retraining_or_with_a_new_model(service):
    drifted(service)
    assert service.ask("w4", STALE)["decision"]["cycle_usd"] == [200]
    assert service.ask("w5", FRESH, model="two")["decision"]["cycle_usd"] == [100]
    assert service.ask("w6", FRESH, model="two")["decision"]["cycle_usd"] == [100, 100]


def test_retrain_services_do_not_share_windows(service):
    drifted(service)
    assert service.ask("w3", FRESH, service="sales")["decision"]["cycle_usd"] == [100]


def test_retrain_on_a_share_of_right_answers_counts_the_wrong_ones(service):
    told = service.ask("w0", FRESH, metric="label_accuracy")
    assert told["loss"] == 0.25 and told["usd_lost"] == 25


def write_ledger(service: Service, usd: float, unknown: int) -> str:
    book = balance([], {}, {})
    total = msgspec.structs.replace(book.total, usd=usd, unknown=unknown)
    cli.write_json(service.folder / "ledger.json", msgspec.structs.replace(book, total=total))
    return (service.folder / "ledger.json").as_uri()


def test_retrain_takes_its_cost_from_the_ledger_at_todays_prices(service):
    uri = write_ledger(service, 40.0, 0)
    told = service.ask("w0", FRESH, retraining_usd=0.0, ledger_uri=uri, price_ratio=1.5)
    assert told["cost_usd"] == 60


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"retraining_usd": 0.0}, 2),
        ({"window": "a/b"}, 2),
        ({"service": ""}, 2),
        ({"metric": "exact_match"}, 2),
        ({"policy": "sometimes"}, 2),
        ({"usd_per_unit": 0.0}, 2),
        ({"retraining_usd": 0.0, "ledger_uri": "file:///no/such/ledger.json"}, 3),
    ],
)
def test_retrain_refuses_what_it_cannot_count_with(service, changes, code):
    assert service.ask(changes.pop("window", "w0"), FRESH, **changes)["code"] == code
    assert not (service.folder / "store").exists()


def test_retrain_refuses_a_ledger_that_does_not_know_its_total(service, capsys):
    uri = write_ledger(service, 40.0, 1)
    assert service.ask("w0", FRESH, retraining_usd=0.0, ledger_uri=uri)["code"] == 2
    assert "1 charges of unknown cost: price their pools, or give retraining_usd" in capsys.readouterr().err


def test_retrain_decides_alike_on_s3(service, s3_url):
    service.store = s3_url
    assert drifted(service)["told"] == "true"
    assert service.ask("w3", STALE, run="other")["told"] == "false"
