"""A verdict survives its receipt, and no step writes one by hand."""

import re
from pathlib import Path
from typing import get_args

import pytest

from deepcuts.components.core import verdicts
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.verdicts import Cut, Outcome, Verdict

COMPONENTS = Path(__file__).parents[2] / "components"


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_a_verdict_reads_back_from_its_fact(outcome: Outcome) -> None:
    verdict = Verdict("quantize", outcome, "int8: 0.4x the bytes")
    assert verdicts.read({"tokens": 3} | verdict.facts()) == [verdict]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("refused, the reference goes on", "refused"),
        ("none of 3 formats is cheaper", "off"),
        ("off: not tried", "off"),
        ("rank 16: 3 % of the weights are trained", "applied"),
    ],
)
def test_a_fact_of_an_older_receipt_has_an_outcome(text: str, outcome: str) -> None:
    facts: Facts = {"cut_lora": text}
    assert [found.outcome for found in verdicts.read(facts)] == [outcome]


def test_only_verdicts_knows_how_a_verdict_is_written() -> None:
    """A step that writes ``"cut_…"`` itself could rename it and no reader would notice."""
    by_hand = {
        path.relative_to(COMPONENTS).as_posix()
        for path in COMPONENTS.rglob("*.py")
        if re.search(r"[\"']cut_", path.read_text()) and path.name != "verdicts.py"
    }
    assert by_hand == set()


def test_every_cut_that_a_step_judges_has_a_writer() -> None:
    source = "\n".join(path.read_text() for path in COMPONENTS.rglob("*.py"))
    written = set(re.findall(r"Verdict\(\s*\"(\w+)\"", source)) | set(re.findall(r"[\"']cut_(\w+)", source))
    assert written - {"NAME"} == set(get_args(Cut))
