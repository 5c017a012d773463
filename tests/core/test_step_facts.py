"""A renamed fact fails here, before a ledger reads nothing where something was written."""

from pathlib import Path

import msgspec
import pytest

from deepcuts.components.core import step_facts
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.step_facts import (
    AcceptFacts,
    BudgetFacts,
    EndedByBudget,
    LengthFacts,
    ModelFacts,
    PlanFacts,
    PullFacts,
    ReleaseFacts,
    SavedFacts,
    SelectFacts,
    SourceFacts,
    TrainingFacts,
    TrialFacts,
)

MODULE = step_facts.__name__
COMPONENTS = Path(__file__).parents[2] / "components"


@pytest.mark.parametrize(
    ("kind", "writers"),
    [
        (PlanFacts, ["plan"]),
        (BudgetFacts, ["plan"]),
        (TrainingFacts, ["finetune", "distill"]),
        (EndedByBudget, ["finetune"]),
        (LengthFacts, ["finetune", "distill"]),
        (TrialFacts, ["finetune"]),
        (ModelFacts, ["finetune", "warmstart"]),
        (SelectFacts, ["select/remaining"]),
        (SourceFacts, ["fetch"]),
        (AcceptFacts, ["accept"]),
        (PullFacts, ["publish/pull"]),
        (ReleaseFacts, ["publish"]),
        (SavedFacts, ["quantize"]),
    ],
)
def test_every_field_is_written_by_its_steps(kind: type[msgspec.Struct], writers: list[str]) -> None:
    for writer in writers:
        source = (COMPONENTS / f"{writer if '/' in writer else f'{writer}/step'}.py").read_text()
        missing = [name for name in kind.__struct_fields__ if f'"{name}":' not in source]
        assert missing == [], f"{writer} no longer writes {missing}"


def test_facts_read_back_among_others_and_are_none_where_one_is_missing() -> None:
    facts: Facts = {"budget_usd": 5.0, "predicted_hours_p50": 1.0, "predicted_hours_p90": 2.0, "pool": "gpu"}
    assert step_facts.read(PlanFacts, facts) == PlanFacts(1.0, 2.0, None, None)
    assert step_facts.read(BudgetFacts, facts) == BudgetFacts(5.0)
    assert step_facts.read(TrainingFacts, facts) is None


def test_every_type_of_a_fact_has_its_writers_tested() -> None:
    kinds = {name for name, kind in vars(step_facts).items() if getattr(kind, "__module__", "") == MODULE}
    (cases,) = test_every_field_is_written_by_its_steps.pytestmark  # type: ignore[attr-defined]
    assert {kind.__name__ for kind, _ in cases.args[1]} == kinds - {"T", "read", "of"}
