"""What the recipes share: how a task is named, placed and sized, and the stages most of them have."""

import copy
from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.core.nodepools import NodePool
from components.evaluate.component import evaluate_whole
from components.fetch.component import fetch_model
from components.finetune.component import finetune
from components.joined.judge import accept_and_quantize, evaluate_and_accept
from components.joined.prepare import fetch_and_ingest, ingest_and_select
from components.joined.release import bill_and_publish
from components.ledger.component import ledger
from components.select.component import select as select_examples
from pipelines import pools
from pipelines.placement import Size, at_most, on, part_of, told_of

CPU, GPU = pools.named("cpu"), pools.named("gpu")
SHARED = CPU.selector == GPU.selector
"""One kind of node for everything: training and its watcher must fit on one node together."""
NODE_SHARE = 0.75
"""Of a node, for one task: the rest is the system's, and KFP's two helpers in each pod."""
TRAIN_SHARE, SCORE_SHARE = (0.5, 0.2) if SHARED else (NODE_SHARE, NODE_SHARE)
TRAIN, SEARCH = part_of(GPU, TRAIN_SHARE, max_hours=24), part_of(GPU, TRAIN_SHARE, max_hours=72)
WATCH, SCORE = part_of(CPU, SCORE_SHARE, max_hours=24), part_of(CPU, SCORE_SHARE, max_hours=6)
SELECT = part_of(CPU, SCORE_SHARE, max_hours=12)
_LARGEST = part_of(CPU, NODE_SHARE, max_hours=0)
FETCH = at_most(Size(1, "4Gi", max_hours=2), _LARGEST)
INGEST = at_most(Size(2, "8Gi", max_hours=6), _LARGEST)
RELEASE = at_most(Size(2, "8Gi", max_hours=2), _LARGEST)
BOOKKEEPING = at_most(Size(1, "2Gi", max_hours=1), _LARGEST)
EXAMPLE_BASE, EXAMPLE_DATA = "example://base", "example://support.jsonl"
STORE = "minio://mlpipeline/deepcuts"
"""Defaults with which a compiled pipeline runs as it is, as from the Kubeflow UI."""
MAX_NEW_TOKENS = 64
"""Longest greedy answer for exact_match: a label, a number or a sentence."""
GROUP_SIZE, CALIBRATION_TOKENS = 32, 8192
"""Columns that share a 4-bit scale, and text for GPTQ: what small models stand."""


def task(
    name: str, component: BaseComponent, pool: NodePool, size: Size, /, **inputs: Any
) -> dsl.PipelineTask:
    """Return ``component`` as the task ``name``, on ``pool``.

    ``name`` is the task's id, its folder in the store and on disk, its row in the ledger and, spelled for
    people, its title in the UI.
    """
    own = copy.deepcopy(component)
    own.name = own.component_spec.name = name
    placed = on(pool, own(**inputs), cpu=size.cpu, memory=size.memory, max_hours=size.max_hours)
    return placed.set_display_name(name.replace("-", " ").capitalize())


def ledger_at_end(
    nodepools: Any,
    margin_nats: Any,
    scorecards: Mapping[str, str],
    curves: Mapping[str, str],
    plans: Mapping[str, str] = {},
) -> dsl.ExitHandler:
    """Open the part of a recipe after which the ledger is written, whatever failed in it.

    Each mapping is name in the ledger to ``TASK/OUTPUT``. The ledger reads what the tasks left in the store
    under the run: an exit task takes parameters only, and the receipt of a failed task is no artifact.
    """
    bill = task(
        "ledger",
        ledger,
        CPU,
        BOOKKEEPING,
        scorecards=dict(scorecards),
        curves=dict(curves),
        plans=dict(plans),
        nodepools=nodepools,
        margin_nats=margin_nats,
    )
    told_of("mlflow", bill).set_caching_options(False)  # its inputs do not say what the run left
    return dsl.ExitHandler(bill, name="run")


def fetch(name: str, uri: Any) -> dsl.PipelineTask:
    """Bring a model in; its output is ``model``."""
    return task(name, fetch_model, CPU, FETCH, uri=uri)


def prepare_data(base: Any, data_uri: Any, **settings: Any) -> dsl.PipelineTask:
    """Bring data in and make ``train``, ``valid``, ``test`` and ``labels`` of it."""
    return task("prepare-data", fetch_and_ingest, CPU, INGEST, base=base, uri=data_uri, **settings)


def prepare(base: Any, data_uri: Any, **settings: Any) -> dsl.PipelineTask:
    """Bring data in as ``prepare_data`` does, and keep of ``train`` the examples worth their tokens."""
    return task("prepare", ingest_and_select, CPU, SELECT, base=base, uri=data_uri, **settings)


def evaluate(name: str, model: Any, data: dsl.PipelineTask, **scoring: Any) -> dsl.PipelineTask:
    """Score a whole model on the test split into a ``scorecard``."""
    return task(
        name,
        evaluate_whole,
        CPU,
        SCORE,
        model=model,
        split=data.outputs["test"],
        labels=data.outputs["labels"],
        max_new_tokens=MAX_NEW_TOKENS,
        **scoring,
    )


def judge(
    base: Any, model: Any, before: dsl.PipelineTask, data: dsl.PipelineTask, margin_nats: Any, **scoring: Any
) -> dsl.PipelineTask:
    """Score ``model`` and pass it on as ``accepted`` if it is no worse than ``base`` by the margin."""
    return task(
        "judge",
        evaluate_and_accept,
        CPU,
        SCORE,
        base=base,
        model=model,
        reference=before.outputs["scorecard"],
        split=data.outputs["test"],
        labels=data.outputs["labels"],
        max_new_tokens=MAX_NEW_TOKENS,
        margin_nats=margin_nats,
        **scoring,
    )


def judge_and_quantize(
    base: Any,
    model: Any,
    text: Any,
    before: dsl.PipelineTask,
    data: dsl.PipelineTask,
    margin_nats: Any,
    candidates: Any,
    objective: Any,
    **scoring: Any,
) -> dsl.PipelineTask:
    """Judge ``model``, then make what was passed on cheaper to serve if it stays as good, as ``accepted``."""
    return task(
        "judge",
        accept_and_quantize,
        CPU,
        SCORE,
        base=base,
        model=model,
        reference=before.outputs["scorecard"],
        text=text,
        valid=data.outputs["valid"],
        split=data.outputs["test"],
        labels=data.outputs["labels"],
        candidates=candidates,
        objective=objective,
        margin_nats=margin_nats,
        group_size=GROUP_SIZE,
        calibration_tokens=CALIBRATION_TOKENS,
        max_new_tokens=MAX_NEW_TOKENS,
        **scoring,
    )


def select(base: Any, data: dsl.PipelineTask, **settings: Any) -> dsl.PipelineTask:
    """Choose the examples worth their tokens; its output is ``cut``."""
    return task(
        "select",
        select_examples,
        CPU,
        SELECT,
        base=base,
        corpus=data.outputs["train"],
        valid=data.outputs["valid"],
        test=data.outputs["test"],
        **settings,
    )


def train_and_release(
    base: dsl.PipelineTask,
    data: dsl.PipelineTask,
    examples: Any,
    recipe: Any,
    before: dsl.PipelineTask,
    scoring: Mapping[str, Any],
    release: Mapping[str, Any],
) -> None:
    """Train ``base`` on ``examples``; release the result if it holds against what ``before`` scored."""
    tuned = task(
        "finetune",
        finetune,
        GPU,
        TRAIN,
        base=base.outputs["model"],
        train=examples,
        valid=data.outputs["valid"],
        store=scoring["store"],
        recipe=recipe,
    )
    gate = judge(
        base.outputs["model"], tuned.outputs["model"], before, data, release["margin_nats"], **scoring
    )
    publish(base, data, gate, f"{before.name}/scorecard", **release)


def publish(
    base: dsl.PipelineTask,
    data: dsl.PipelineTask,
    gate: dsl.PipelineTask,
    reference: str,
    *,
    candidate: str = "candidate",
    verdict: str = "verdict",
    **settings: Any,
) -> dsl.PipelineTask:
    """Release what ``gate`` passed on, with the ledger of what it took; never from the cache: it is an act.

    ``reference`` is ``TASK/OUTPUT`` of the scorecard that the gate held its own output ``candidate`` against.
    """
    released = task(
        "publish",
        bill_and_publish,
        CPU,
        RELEASE,
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
        **settings,
    )
    return told_of("registry", released).set_caching_options(False)
