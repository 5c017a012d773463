"""Verdict: what became of a cut, written by the step that tried it, read by ledger and comparisons.

In a receipt it is one fact, ``cut_NAME = "OUTCOME: REASON"``. Only this module knows that form.
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
    """What became of one cut in one step."""

    cut: Cut
    outcome: Outcome
    """``refused``: it was tried, or predicted, and does not pay at equal quality. ``off``: nobody asked."""
    reason: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"

    def facts(self) -> Facts:
        """Return the fact of a receipt that holds this verdict."""
        return {f"{PREFIX}{self.cut}": str(self)}


def read(facts: Facts) -> list[Verdict]:
    """List the verdicts among the facts of a receipt, in their order.

    Receipts of version 0.1 have no outcome in the text: their first word decides.
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
