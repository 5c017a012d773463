"""Read a planning request from the arguments of the step, for a run as for ``deepcuts plan``."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.ledger.charges import Charge
from deepcuts.components.plan import architecture, scoring
from deepcuts.components.plan import decision as decisions
from deepcuts.components.plan.choice import Measurement, PlanTask
from deepcuts.components.plan.decision import PlanDecision, PlanTerms
from deepcuts.components.plan.placing import Wish
from deepcuts.components.plan.scoring import ScoringWork

LOCAL = "a local run trains on one node: several need a cluster with Kubeflow Trainer"


class PlanRequest(NamedTuple):
    """Input of a plan."""

    task: PlanTask
    """For a search its heaviest trial, times those concurrent on one node."""
    pools: Mapping[str, NodePool]
    wish: Wish
    terms: PlanTerms
    work: ScoringWork
    calibrate: Measurement

    @property
    def notes(self) -> list[str]:
        """Return what keeps the training on one node, if a pool allows more."""
        several = any(pool.max_nodes > 1 for pool in self.pools.values())
        return [self.task.one_node] if several and self.task.one_node else []

    def decide(self) -> PlanDecision:
        """Return the cheapest places that fit the work; raises as ``decision.decide``."""
        return decisions.decide(self.task, self.pools, self.wish, self.terms, self.work, self.calibrate)


def one_node(given: Mapping[str, Any]) -> str:
    """Return why the training has to stay on one node; empty if it may take several."""
    if given["space"]:
        return "each trial of a search trains on one node"
    return LOCAL if given["run"].startswith("file://") else ""


def read(given: Mapping[str, Any], spent: Sequence[Charge]) -> PlanRequest:
    """Return the request in ``given``, the arguments of ``plan`` by name; ``spent`` are past charges.

    Raises:
        FileNotFoundError, DataError: a base or teacher has no valid config.json.
        ValueError: the student keeps layers that its base lacks, or serve_on is neither cpu nor gpu.
    """
    bounds = (given["deadline_hours"], given["objective"], given["budget_usd"], given["reserve_share"])
    task = given["taught"].task(architecture.read(given["base"]), given["recipe"], given["answer_share"])
    task = task._replace(copies=given["parallel"], one_node=one_node(given))
    return PlanRequest(
        task=decisions.heaviest(task, given["space"]),
        pools=given["nodepools"].by_name,
        wish=Wish(given["pool"], given["spot"], given["compiled_for"], given["watched"]),
        terms=PlanTerms(*bounds, spent),
        work=scoring.work(given["max_examples"], given["max_tokens"], given["candidates"], given["serve_on"]),
        calibrate=given["calibrate"],
    )
