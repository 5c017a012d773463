import json
import random
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.accept.step import accept
from deepcuts.components.core import cli, scorecards
from deepcuts.components.core.scorecards import Score


class Gate:
    """Two models, their Scorecards, and the step's command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("cheap", "dear"):
            (folder / name).mkdir()
            (folder / name / "model.safetensors").write_text(f"weights of {name}")

    def scored(self, name: str, mean: float, seed: int = 0, examples: int = 200) -> None:
        """A Scorecard of examples that lie ``mean`` above the task's own difficulty, with a little noise."""
        noise = random.Random(f"{name} {seed}")
        scores = [
            Score(str(i), 10 * (2 + i % 7 / 10 + mean + noise.gauss(0, 0.02)), 10, exact_match=i % 2 == 0)
            for i in range(examples)
        ]
        card = scorecards.summarise(scores, name, "split", seed)
        scorecards.write(self.folder / name, card, scores)

    def run(self, **changes: Any) -> tuple[int, dict[str, Any]]:
        """(exit code, facts) of the step as a pod would run it."""
        flags = {
            "candidate_model": self.folder / "cheap",
            "reference_model": self.folder / "dear",
            "candidate": self.folder / "cheap-card",
            "reference": self.folder / "dear-card",
            "metric": "completion_loss",
            "margin": 0.03,
            "accepted": self.folder / "accepted",
            "scorecard": self.folder / "scorecard",
            "verdict": self.folder / "verdict.md",
            "seed": 0,
        } | changes
        words = [w for name, value in flags.items() for w in (f"--{name.replace('_', '-')}", str(value))]
        receipt = self.folder / "receipt.json"
        code = cli.run(accept, [*words, "--receipt", str(receipt)])
        return code, json.loads(receipt.read_text())["facts"]

    @property
    def passed_on(self) -> str:
        return (self.folder / "accepted" / "model.safetensors").read_text()

    @property
    def verdict(self) -> str:
        return (self.folder / "verdict.md").read_text()


def passed_score(gate: Gate) -> scorecards.Scorecard:
    return scorecards.read(gate.folder / "scorecard")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_accept_passes_an_equal_candidate_on(gate):
    gate.scored("cheap-card", mean=0.01)
    gate.scored("dear-card", mean=0.0)
    code, facts = gate.run()
    assert code == 0 and facts["accepted"] is True
    assert passed_score(gate) == scorecards.read(gate.folder / "cheap-card")
    assert gate.passed_on == "weights of cheap"
    assert facts["worse_by_low"] < facts["worse_by"] < facts["worse_by_high"] < 0.03
    assert facts["worse_by"] == pytest.approx(0.01, abs=0.006)
    assert gate.verdict.startswith("**Accepted.**")


def test_accept_refuses_a_worse_candidate_without_an_error_and_passes_the_reference_on(gate):
    gate.scored("cheap-card", mean=0.05)
    gate.scored("dear-card", mean=0.0)
    code, facts = gate.run()
    assert code == 0 and facts["accepted"] is False
    assert passed_score(gate) == scorecards.read(gate.folder / "dear-card")
    assert facts["cut_candidate"].startswith("refused")
    assert gate.passed_on == "weights of dear"
    assert "worse by more than the margin" in gate.verdict


def test_accept_refuses_what_too_few_examples_cannot_show(gate):
    gate.scored("cheap-card", mean=0.01, examples=4)
    gate.scored("dear-card", mean=0.0, examples=4)
    code, facts = gate.run()
    assert (code, facts["accepted"]) == (0, False)
    assert "Not shown to be no worse" in gate.verdict and "4 examples" in gate.verdict
    assert facts["smallest_gap"] > 0.02


def test_accept_pairs_seeds_by_name_and_sees_the_spread_between_them(gate):
    for seed, shift in enumerate([-0.02, 0.0, 0.02]):
        gate.scored(f"cheap-runs/seed-{seed}", mean=0.015 + shift, seed=seed)
        gate.scored(f"dear-runs/seed-{seed}", mean=0.0, seed=seed)
    runs = {"candidate": gate.folder / "cheap-runs", "reference": gate.folder / "dear-runs"}
    code, facts = gate.run(**runs)
    assert (code, facts["seeds"], facts["accepted"]) == (0, 3, False)
    _, one = gate.run(**{name: path / "seed-1" for name, path in runs.items()})
    assert one["accepted"] is True and "1 seed" in gate.verdict
    assert facts["smallest_gap"] > 3 * one["smallest_gap"]


def test_accept_refuses_runs_that_are_no_pairs(gate, capsys):
    for name in ("cheap-runs/seed-0", "cheap-runs/seed-1", "dear-runs/seed-0"):
        gate.scored(name, mean=0.0)
    code, _ = gate.run(candidate=gate.folder / "cheap-runs", reference=gate.folder / "dear-runs")
    assert code == 2 and "seed-0, seed-1" in capsys.readouterr().err
    assert not (gate.folder / "accepted").exists()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"metric": "loss"}, 2, "'loss' is not known: give one of completion_loss"),
        ({"metric": "label_accuracy"}, 2, "label_accuracy was not measured"),
        ({"margin": 0}, 2, "margin 0"),
        ({"candidate": Path("nowhere")}, 3, "nowhere has no Scorecard"),
        ({"candidate_model": Path("nowhere")}, 3, "nowhere"),
    ],
)
def test_accept_names_what_is_wrong(gate, capsys, changes, code, words):
    gate.scored("cheap-card", mean=0.0)
    gate.scored("dear-card", mean=0.01)
    assert gate.run(**changes)[0] == code
    assert words in capsys.readouterr().err
    assert not (gate.folder / "accepted").exists()


def test_accept_judges_by_the_metric_it_was_given(gate):
    gate.scored("cheap-card", mean=0.5)
    gate.scored("dear-card", mean=0.0)
    code, facts = gate.run(metric="exact_match")
    assert (code, facts["accepted"], facts["worse_by"]) == (0, True, 0.0)
    assert "no difference" in gate.verdict
