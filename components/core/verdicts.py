"""Verdict: the outcome of a cut, written by the step that tried it, read by the ledger and comparisons.

In a receipt it is one fact, ``cut_NAME = "OUTCOME: REASON"``, a form that only this module knows.
"""

from typing import Literal, cast, get_args

import msgspec

from deepcuts.components.core.receipts import Facts

PREFIX = "cut_"
Cut = Literal[
    "candidate",
    "checkpointing",
    "compile",
    "curriculum",
    "distill",
    "lora",
    "plan",
    "prune",
    "quantize",
    "retrain",
    "select",
    "tune",
    "warmstart",
]
Outcome = Literal["applied", "refused", "off"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Verdict(msgspec.Struct, frozen=True):
    """Outcome of one cut in one step."""

    cut: Cut
    outcome: Outcome
    """``refused``: tried or predicted, but it does not pay off at equal quality. ``off``: not asked for."""
    reason: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"

    def facts(self) -> Facts:
        """Return this verdict as a fact of a receipt."""
        return {f"{PREFIX}{self.cut}": str(self)}


def read(facts: Facts) -> list[Verdict]:
    """Return the verdicts among a receipt's facts, in their order.

    In receipts of version 0.1 the text has no outcome; its first word decides.
    """
    return [
        _parse(cast(Cut, name.removeprefix(PREFIX)), str(text))
        for name, text in facts.items()
        if name.startswith(PREFIX)
    ]


def _parse(cut: Cut, text: str) -> Verdict:
    outcome, _, reason = text.partition(": ")
    if outcome in OUTCOMES:
        return Verdict(cut, outcome, reason)
    if text.startswith("refused"):
        return Verdict(cut, "refused", text)
    return Verdict(cut, "off" if text.startswith(("off", "none")) else "applied", text)
