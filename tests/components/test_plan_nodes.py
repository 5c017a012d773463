"""Trainings over several nodes: when the planner takes them, at what price, and what the tasks ask for."""

import json
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import nodepools
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import parse
from deepcuts.components.core.spread import Spread
from deepcuts.components.plan import choice, placing, request, scoring, speed, ways
from deepcuts.components.plan.architecture import parse as shapes_of
from deepcuts.components.plan.choice import PlanOption, PlanTask
from deepcuts.components.plan.decision import PlanDecision, PlanTerms, decide, outputs
from deepcuts.components.plan.placing import Wish
from tests.components.test_plan import FULL, LLAMA_8B, SMALL, pool

CPU = {
    "name": "cpu",
    "selector": {"node-pool": "cpu"},
    "cpu_cores": 4,
    "memory_bytes": 2**36,
    "usd_per_hour": 0.16,
    "price_source": "test",
    "price_date": "2026-11-30",
    "flops_per_second": 2.5e11,
}
FAST, SLOW = 5e10, 1e7
"""Networks: 400 Gbit/s, 80 Mbit/s."""
NOTHING = scoring.work(500, 512, ["off"], "cpu")


def gpus(network: float | None, nodes: int = 4, devices: int = 8, **changed: Any) -> dict[str, Any]:
    several = {"max_nodes": nodes, "network_bytes_per_second": network, "selector": {"node-pool": "gpu"}}
    return pool("gpu", 80, 30.0, devices=devices) | several | {"memory_bytes": 2**39} | changed


def decided(
    config: dict[str, Any], recipe: dict[str, Any], *pools: dict[str, Any], **terms: Any
) -> tuple[PlanDecision, PlanTask, dict[str, NodePool]]:
    known = nodepools.parse({"pools": [CPU, *pools]})
    task = PlanTask(shapes_of(config), parse(recipe), 0.5, one_node=terms.pop("one_node", ""))
    return decide(task, known, Wish("gpu"), PlanTerms(**terms), NOTHING), task, known


def best(*given: Any, **terms: Any) -> PlanOption:
    return decided(*given, **terms)[0].best


def test_several_nodes_are_taken_where_only_they_meet_the_deadline_and_a_slow_network_takes_none():
    one = best(LLAMA_8B, FULL, gpus(None, nodes=1))
    assert one.nodes == 1 and one.estimate
    deadline = {"deadline_hours": one.estimate.hours_p90 * 0.7}
    several = best(LLAMA_8B, FULL, gpus(FAST), **deadline)
    assert several.nodes > 1 and several.strategy in ("fsdp", "hsdp")
    assert f"on {several.nodes} nodes: " in several.reason and "times as fast as one" in several.reason
    with pytest.raises(ValueError, match="the fastest, gpu fsdp x8"):
        best(LLAMA_8B, FULL, gpus(SLOW), **deadline)
    assert best(LLAMA_8B, FULL, gpus(FAST)).nodes == 1  # as cheap at best, and simpler


def test_what_does_not_fit_on_one_node_is_sharded_over_several():
    made, _, _ = decided(LLAMA_8B, FULL, gpus(FAST, accelerator_memory_bytes=16 * 2**30))
    found = made.best
    assert all(option.missing_bytes for option in made.rejected if option.nodes == 1)
    assert found.nodes > 1 and found.strategy == "fsdp"  # a copy for each node would not fit either
    assert "does not fit on one node" in found.reason
    assert found.name.startswith(f"gpu fsdp {found.nodes} nodes x8")


def test_every_node_is_paid_for_and_so_is_the_task_that_follows():
    made, _, known = decided(SMALL, FULL, gpus(FAST, nodes=2))
    two = [option for option in made.rejected if option.nodes == 2 and option.estimate]
    assert {option.strategy for option in two} == {"ddp", "fsdp", "hsdp"}
    for option in two:
        assert option.estimate and option.estimate.usd_p50
        hourly = 2 * 30.0 + CPU["usd_per_hour"]
        assert option.estimate.usd_p50 == pytest.approx(option.estimate.hours_p50 * hourly)
    unknown = msgspec.structs.replace(known["cpu"], usd_per_hour=None)
    follower = placing.follower(known["gpu"], {"cpu": unknown})
    assert follower.usd_per_hour is None


def test_hsdp_sends_only_gradients_over_the_network_and_fsdp_sends_weights_in_every_pass():
    recipe, shapes = parse(FULL), shapes_of(SMALL)
    node = nodepools.parse({"pools": [gpus(SLOW, nodes=2)]})["gpu"]
    trained = 4 * shapes.tree.weights
    hsdp = speed.communication_seconds(shapes, recipe, node, "hsdp", 8, 2, passes=3)
    inside = 3 * 3 * trained * 7 / 8 / 3e11
    assert hsdp == pytest.approx(inside + trained / SLOW)  # 2 x half of the gradients
    fsdp = speed.communication_seconds(shapes, recipe, node, "fsdp", 8, 2, passes=3)
    assert fsdp == pytest.approx(3 * 3 * trained * 15 / 16 / SLOW)
    one = speed.communication_seconds(shapes, recipe, node, "fsdp", 8, 1, passes=3)
    assert one == pytest.approx(inside)


def test_a_step_that_does_not_divide_evenly_is_as_slow_as_its_busiest_process():
    recipe = parse(FULL | {"tokens_per_step": 5 * 2048})
    node = nodepools.parse({"pools": [gpus(1e15, nodes=2, devices=1, memory_bytes_per_second=None)]})["gpu"]
    alone, two = (
        speed.estimate(shapes_of(SMALL), recipe, node, strategy, 1, 0.5, 0.0, nodes).seconds_per_step
        for strategy, nodes in (("single", 1), ("ddp", 2))
    )
    assert two / alone == pytest.approx(3 / 5, rel=0.01)  # rows: 3 and 2


def test_no_more_processes_are_planned_than_a_step_has_rows():
    node = nodepools.parse({"pools": [gpus(FAST, nodes=7)]})["gpu"]
    task = PlanTask(shapes_of(SMALL), parse(FULL | {"tokens_per_step": 32 * 2048}), 0.5)
    assert {nodes for _, _, nodes in ways.of(task, node)} == {1, 2, 4}
    wide = task._replace(recipe=parse(FULL | {"tokens_per_step": 64 * 2048}))
    assert {nodes for _, _, nodes in ways.of(wide, node)} == {1, 2, 4, 7}
    assert ways.of(task._replace(single=True), node) == ways.ALONE
    assert {nodes for _, _, nodes in ways.of(task._replace(copies=2), node)} == {1}
    lone = nodepools.parse({"pools": [gpus(FAST, devices=1)]})["gpu"]
    assert ("hsdp", 1, 2) not in ways.of(task, lone) and ("fsdp", 1, 2) in ways.of(task, lone)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"space": {}, "run": "minio://b/run/plan/x/decision"}, ""),
        ({"space": {}, "run": "file:///runs/run/plan/x/decision"}, "a local run trains on one node"),
        ({"space": {"lr": 1}, "run": "minio://b/run/plan/x/decision"}, "each trial of a search"),
    ],
)
def test_local_runs_and_searches_stay_on_one_node(given, why):
    found = request.one_node(given)
    assert found.startswith(why) and bool(found) == bool(why)
    terms = {"objective": "fastest", "one_node": found}
    assert (best(SMALL, FULL, gpus(FAST), **terms).nodes > 1) == (not why)


def test_the_task_asks_for_what_following_takes_and_hands_on_what_each_node_needs():
    made, task, known = decided(SMALL, FULL, gpus(FAST, nodes=2), objective="fastest")
    assert made.best.nodes == 2
    asked = outputs(made, task, known, task.recipe, NOTHING)
    assert (asked["train_pool"], asked["train_cpu"], asked["train_devices"]) == ("cpu", "0.5", "0")
    spread = msgspec.convert(asked["train_nodes"], Spread)
    assert (spread.nodes, spread.pool, spread.devices) == (2, "gpu", 8)
    assert spread.selector == {"node-pool": "gpu"} and spread.memory.endswith("Mi")
    assert len(json.dumps(asked["train_nodes"])) < 400  # a run's status repeats it
    one, task, known = decided(SMALL, FULL, gpus(None, nodes=1))
    assert outputs(one, task, known, task.recipe, NOTHING)["train_nodes"] == {}


def test_the_following_task_goes_where_its_queue_admits_it():
    known = nodepools.parse({"pools": [CPU, gpus(FAST, queue="team")]})
    assert placing.follower(known["gpu"], known).name == "gpu"
    shared = nodepools.parse({"pools": [CPU | {"queue": "team"}, gpus(FAST, queue="team")]})
    assert placing.follower(shared["gpu"], shared).name == "cpu"


def test_several_nodes_without_a_measured_network_are_refused():
    with pytest.raises(ValueError, match="max_nodes 4 without network_bytes_per_second: measure it"):
        nodepools.parse({"pools": [gpus(None)]})


def test_preemptions_of_a_spot_pool_count_once_for_each_node():
    recipe, shapes = parse(FULL), shapes_of(SMALL)
    known = nodepools.parse({"pools": [gpus(1e15, spot=True, preemptions_per_hour=1.0)]})["gpu"]
    calm = msgspec.structs.replace(known, preemptions_per_hour=0.0)
    for nodes in (1, 2, 4):
        given = (recipe, known, "ddp", 8, 0.5, 0.0, nodes)
        torn = speed.estimate(shapes, *given).seconds_per_step
        quiet = speed.estimate(shapes, recipe, calm, *given[2:]).seconds_per_step
        assert torn / quiet - 1 == pytest.approx(nodes * speed.lost_to_preemption(known, recipe))


def test_a_strategy_that_the_recipe_names_is_kept_to():
    found = choice.options(
        PlanTask(shapes_of(SMALL), parse(FULL | {"strategy": "hsdp"}), 0.5),
        nodepools.parse({"pools": [gpus(FAST)]}),
    )
    assert {option.strategy for option in found} == {"single", "hsdp"}
