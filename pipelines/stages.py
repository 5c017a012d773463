"""Shared parts of the recipes: names, placement and sizes of tasks, and common stages."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from deepcuts.components.core import pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.evaluate.component import evaluate_whole
from deepcuts.components.fetch.component import fetch_model
from deepcuts.components.finetune.component import finetune
from deepcuts.components.joined.judge import accept_and_quantize, evaluate_and_accept
from deepcuts.components.joined.release import bill_and_publish, bill_and_publish_steered
from deepcuts.components.ledger.component import ledger
from deepcuts.components.select.component import select as select_examples
from deepcuts.pipelines import pools
from deepcuts.pipelines.placement import Place, Size, as_planned, at_most, on, part_of, with_settings

CPU, GPU = "cpu", "gpu"
"""The node pools of nodepools.yaml on which recipes place tasks."""
EXAMPLE_BASE, EXAMPLE_DATA = "example://base", "example://support.jsonl"
STORE = "minio://mlpipeline/deepcuts"
"""Defaults with which a compiled pipeline runs unchanged, as from the Kubeflow UI."""
SPACE = {
    "method": {"kind": "choice", "values": ["lora", "full"]},
    "learning_rate": {"kind": "float", "min": 1e-5, "max": 1e-2, "log": True},
    "lora_rank": {"kind": "choice", "values": [4, 16, 64], "when": {"method": ["lora"]}},
}
"""Search space by default."""
GIVEN_AS = {
    "uri": "data_uri",
    "store": "store_uri",
    "method": "select_method",
    "budget_tokens": "select_budget_tokens",
    "difficulty_signal": "curriculum_signal",
    "pacing": "curriculum_pacing",
    "phases": "curriculum_phases",
    "candidates": "quantize_candidates",
    "split_seed": "seed",
    "seed": "data_seed",
}
"""Inputs of data components whose pipeline parameter has another name."""


class NodePart(NamedTuple):
    """A task's share of a node."""

    max_hours: float
    together: float
    """If CPU and GPU are one kind of node, whose other tasks must fit, too."""

    def size(self, pool: NodePool, *, shared: bool) -> Size:
        """Return the size on ``pool``; ``shared`` means one kind of node for everything."""
        return part_of(pool, self.together if shared else pods.NODE_SHARE, self.max_hours)


SELECT_HOURS, TRAIN_HOURS, SEARCH_HOURS, SCORE_HOURS = 12, 24, 72, 24
"""Deadlines of a pod: llama.cpp scores an 8B model for 11 h on 8 cores."""
SELECT = NodePart(SELECT_HOURS, together=pods.SCORING_SHARE)
FETCH = Size(1, "4Gi", max_hours=2)
RELEASE, BOOKKEEPING = Size(2, "8Gi", max_hours=2), Size(1, "2Gi", max_hours=1)


def planned(plan: dsl.PipelineTask, name: str, *, several: bool = False) -> Place:
    """Return the place ``name`` (train, scoring, watch) that ``plan`` decides on during the run.

    ``several`` is for tasks that can take several nodes together.
    """
    known = compiled_for()
    queue = known["training_queue" if name == "train" else "scoring_queue"]
    return Place(plan, name, queue, known["device"], several)


def compiled_for() -> dict[str, str]:
    """Return the compile-time settings of planned tasks: Kueue's queues, and the accelerators' name."""
    return {
        "training_queue": pools.named(GPU).queue,
        "scoring_queue": pools.named(CPU).queue,
        "device": pools.device(),
    }


def task(
    name: str, component: BaseComponent, where: str | Place, size: Size | NodePart | float
) -> Callable[..., dsl.PipelineTask]:
    """Return ``component`` as the task ``name``, of ``size``, on a pool; call it with its inputs.

    ``name`` is the task's id, its folder in the store and on disk, its row in the ledger and, formatted, its
    title in the UI. ``where`` is a pool's name, or the place that a plan decides on during the run, including
    the size; ``size`` is then the deadline in hours.
    """

    def placed(**inputs: Any) -> dsl.PipelineTask:
        own = copy.deepcopy(component)
        own.name = own.component_spec.name = name
        # component.py has the descriptions; a run's status would repeat each 8 times, 39 kB for distill
        for field in ((own.component_spec.inputs or {}) | (own.component_spec.outputs or {})).values():
            field.description = None
        made = own(**inputs).set_display_name(name.replace("-", " ").capitalize())
        if isinstance(where, Place):
            assert isinstance(size, int | float)
            return as_planned(where, made, max_hours=size)
        node, shared = pools.named(where), pools.named(CPU).selector == pools.named(GPU).selector
        assert isinstance(size, Size | NodePart)
        if isinstance(size, NodePart):
            asked = size.size(node, shared=shared)
        else:
            asked = at_most(size, part_of(node, pods.NODE_SHARE, size.max_hours))
        return on(node, made, cpu=asked.cpu, memory=asked.memory, max_hours=asked.max_hours)

    return placed


def fetch(name: str, uri: Any) -> dsl.PipelineTask:
    """Fetch a model; its output is ``model``."""
    return task(name, fetch_model, CPU, FETCH)(uri=uri)


class Stages(NamedTuple):
    """The stages of one recipe, with shared settings."""

    scorecards: Mapping[str, str]
    """``TASK/OUTPUT`` by name in the ledger."""
    store: Any
    measures: Any
    max_examples: Any
    margin_nats: Any
    release_name: Any
    base_licence: Any
    nodepools: Any
    seed: Any

    @property
    def scoring(self) -> dict[str, Any]:
        """Return the arguments of every task that scores a model."""
        return {
            "store": self.store,
            "measures": self.measures,
            "max_examples": self.max_examples,
            "seed": self.seed,
        }

    def ledger_at_end(
        self, curves: Mapping[str, str], plans: Mapping[str, str] = MappingProxyType({})
    ) -> dsl.ExitHandler:
        """Open the part of a recipe after which the ledger is written, even after failures.

        Each mapping is from the name in the ledger to ``TASK/OUTPUT``. The ledger reads the tasks' records in
        the store, because an exit task takes only parameters, and the receipt of a failed task is not an
        artifact.
        """
        bill = task("ledger", ledger, CPU, BOOKKEEPING)(
            scorecards=dict(self.scorecards),
            curves=dict(curves),
            plans=dict(plans),
            studies=self.store,
            nodepools=self.nodepools,
            margin_nats=self.margin_nats,
        )
        # never cached, as its inputs do not show what the run left
        return dsl.ExitHandler(with_settings("mlflow", bill).set_caching_options(False), name="run")

    def prepare(
        self,
        name: str,
        component: BaseComponent,
        base: dsl.PipelineTask,
        given: Mapping[str, Any],
        **changed: Any,
    ) -> dsl.PipelineTask:
        """Fetch data with ``component``, which also plans the training, with a pipeline's parameters."""
        inputs = component.component_spec.inputs or {}
        taken = {key: given[own] for key in inputs if (own := GIVEN_AS.get(key, key)) in given}
        taken |= {"base": base.outputs["model"], "compiled_for": compiled_for()} | changed
        return task(name, component, CPU, SELECT)(**taken)

    def select(self, base: Any, data: dsl.PipelineTask, given: Mapping[str, Any]) -> dsl.PipelineTask:
        """Select the examples worth their tokens; its output is ``cut``."""
        names = select_examples.component_spec.inputs or {}
        taken = {key: given[own] for key in names if (own := GIVEN_AS.get(key, key)) in given}
        splits = {"corpus": "train", "valid": "valid", "test": "test"}
        taken |= {key: data.outputs[split] for key, split in splits.items()}
        return task("select", select_examples, planned(data, "scoring"), SELECT_HOURS)(base=base, **taken)

    def evaluate(self, name: str, model: Any, data: dsl.PipelineTask) -> dsl.PipelineTask:
        """Score a whole model on the test split; its output is ``scorecard``."""
        return task(name, evaluate_whole, planned(data, "scoring"), SCORE_HOURS)(
            model=model, split=data.outputs["test"], labels=data.outputs["labels"], **self.scoring
        )

    def judge(
        self, base: dsl.PipelineTask, model: Any, before: dsl.PipelineTask, data: dsl.PipelineTask
    ) -> dsl.PipelineTask:
        """Score ``model`` and pass it on as ``accepted`` if it is no worse than ``base`` by the margin."""
        return task("judge", evaluate_and_accept, planned(data, "scoring"), SCORE_HOURS)(
            base=base.outputs["model"],
            model=model,
            reference=before.outputs["scorecard"],
            split=data.outputs["test"],
            labels=data.outputs["labels"],
            margin_nats=self.margin_nats,
            **self.scoring,
        )

    def judge_and_quantize(
        self,
        base: dsl.PipelineTask,
        model: Any,
        text: Any,
        before: dsl.PipelineTask,
        data: dsl.PipelineTask,
        serve_on: Any,
        candidates: Any,
        objective: Any,
    ) -> dsl.PipelineTask:
        """Judge ``model``, then make the accepted model cheaper to serve, if quality stays."""
        return task("judge", accept_and_quantize, planned(data, "scoring"), SCORE_HOURS)(
            base=base.outputs["model"],
            model=model,
            reference=before.outputs["scorecard"],
            text=text,
            valid=data.outputs["valid"],
            split=data.outputs["test"],
            labels=data.outputs["labels"],
            serve_on=serve_on,
            candidates=candidates,
            objective=objective,
            margin_nats=self.margin_nats,
            **self.scoring,
        )

    def train_and_release(
        self,
        base: dsl.PipelineTask,
        data: dsl.PipelineTask,
        examples: Any,
        recipe: Any,
        before: dsl.PipelineTask,
        training: Any = None,
    ) -> None:
        """Train ``base`` on ``examples``; release the result if it holds against the scorecard of ``before``.

        ``training`` is the Markdown of the search that found ``recipe``.
        """
        tuned = task("finetune", finetune, planned(data, "train", several=True), TRAIN_HOURS)(
            base=base.outputs["model"],
            train=examples,
            valid=data.outputs["valid"],
            store=self.store,
            recipe=recipe,
        )
        gate = self.judge(base, tuned.outputs["model"], before, data)
        # for an adapter, which is merged into its base there
        place = planned(data, "scoring")
        self.publish(base, data, gate, f"{before.name}/scorecard", training=training, place=place)

    def publish(
        self,
        base: dsl.PipelineTask,
        data: dsl.PipelineTask,
        gate: dsl.PipelineTask,
        reference: str,
        candidate: str = "candidate",
        verdict: str = "verdict",
        training: Any = None,
        place: Place | None = None,
    ) -> dsl.PipelineTask:
        """Release the model that ``gate`` passed on, with its ledger; never cached.

        ``reference`` is ``TASK/OUTPUT`` of the scorecard with which the gate compared its own, the output
        ``candidate``.
        """
        component = bill_and_publish_steered if training else bill_and_publish
        size = RELEASE.max_hours if place else RELEASE
        released = task("publish", component, place or CPU, size)(
            **({"training": training} if training else {}),
            base=base.outputs["model"],
            model=gate.outputs["accepted"],
            evidence={
                "candidate": f"{gate.name}/{candidate}",
                "reference": reference,
                "verdict": f"{gate.name}/{verdict}",
                "accept_receipt": f"{gate.name}/receipt",
                "model_receipt": f"{base.name}/receipt",
                "data_receipt": f"{data.name}/receipt",
            },
            scorecards=dict(self.scorecards),
            nodepools=self.nodepools,
            margin_nats=self.margin_nats,
            base_licence=self.base_licence,
            store=self.store,
            name=self.release_name,
        )
        return with_settings("registry", released).set_caching_options(False)
