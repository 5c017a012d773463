"""Where plan puts training: which pools may take it, what its pod asks for, what a spot node costs."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import nodepools
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import parse
from deepcuts.components.plan import placing, speed
from deepcuts.components.plan.architecture import parse as shapes_of
from deepcuts.components.plan.choice import Measurement
from deepcuts.components.plan.placing import Wish
from deepcuts.components.plan.step import decide
from deepcuts.pipelines import pools as shipped
from tests.components.test_plan import LLAMA_8B, LORA, SMALL, flags_of, run

POOLS = shipped.read()
TINY = {"budget_tokens": 20_000, "tokens_per_step": 2048, "seq_len": 256, "method": "lora"}


def placed(
    config: dict[str, Any],
    recipe: dict[str, Any],
    folder: Path,
    wish: Wish = Wish(watcher="cpu"),  # noqa: B008  (a tuple)
    pools: dict[str, NodePool] = POOLS,
) -> dict[str, Any]:
    """What the plan's outputs say."""
    (folder / "config.json").write_text(json.dumps(config))
    best, _ = decide(folder, parse(recipe), pools, 0.0, "cheapest", 0.5, Measurement(), wish)
    pool, watcher = pools[best.pool], pools.get(wish.watcher)
    shapes = shapes_of(config)
    return placing.outputs(pool, watcher, best.devices, best.memory, shapes, parse(recipe), 0.5)


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi")
    return int(quantity[:-2])


def test_small_work_goes_to_the_cpu_pool_and_shares_its_node_with_the_watcher(tmp_path):
    made = placed(SMALL, TINY, tmp_path)
    assert made["train_pool"] == "cpu" and made["train_selector"] == {"node-pool": "cpu"}
    assert made["train_taints"] == []
    assert (made["train_device"], made["train_devices"]) == ("nvidia.com/gpu", "0")
    cores = float(made["train_cpu"]) + 2 * float(made["scoring_cpu"])  # the watcher, and evaluate-before
    assert cores <= POOLS["cpu"].cpu_cores and float(made["train_cpu"]) == 2.0
    asked = mebibytes(made["train_memory"]) + 2 * mebibytes(made["scoring_memory"])
    assert asked * 2**20 <= POOLS["cpu"].memory_bytes


def test_large_work_goes_to_the_spot_pool_because_it_is_cheapest_with_its_taints_and_card(tmp_path):
    made = placed(LLAMA_8B, LORA | {"trainable_embeddings": "no", "base_precision": "nf4"}, tmp_path)
    assert made["train_pool"] == "gpu-spot"
    assert made["train_taints"] == [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule", "operator": "Exists"},
        {
            "key": "cloud.google.com/gke-spot",
            "effect": "NoSchedule",
            "operator": "Equal",
            "value": "true",
        },
    ]
    assert (made["train_device"], made["train_devices"]) == ("nvidia.com/gpu", "1")
    assert made["scoring_cpu"] == "3"  # 0.75 of a CPU node: training is elsewhere


def test_never_spot_takes_on_demand_and_a_named_pool_is_taken_whatever_it_costs(tmp_path):
    large = LORA | {"trainable_embeddings": "no", "base_precision": "nf4"}
    never = Wish(spot="never", watcher="cpu")
    assert placed(LLAMA_8B, large, tmp_path, never)["train_pool"] == "gpu"
    assert placed(SMALL, TINY, tmp_path, Wish("gpu", watcher="cpu"))["train_pool"] == "gpu"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish("gup"), "no node pool 'gup' to plan for: give auto, or one of cpu, gpu, gpu-spot"),
        (
            Wish("gpu-spot", "never"),
            "pool 'gpu-spot' cannot take the training: it is a spot pool",
        ),
        (Wish("gpu", queue="team"), "its queue is '' and the task is labelled for 'team'"),
    ],
)
def test_a_wish_that_cannot_be_kept_is_refused_with_its_reason(wish, words):
    with pytest.raises(ValueError, match=words):
        placing.barred(POOLS, wish)


def test_pools_of_another_queue_are_not_taken_for_their_pods_cannot_be_labelled(tmp_path):
    value = {"pools": [{**one} for one in shipped.prices()["pools"]]}
    value["pools"][1]["queue"] = "team"
    pools = nodepools.parse(value)
    assert set(placing.barred(pools, Wish(queue="team"))) == {"cpu", "gpu-spot"}
    assert placed(SMALL, TINY, tmp_path, Wish(queue="team"), pools)["train_pool"] == "gpu"


def test_requests_follow_the_model_and_not_the_node(tmp_path):
    small = placed(SMALL, TINY, tmp_path, Wish("gpu", watcher="cpu"))
    assert float(small["train_cpu"]) == 4 and mebibytes(small["train_memory"]) < 3 * 1024
    half = LLAMA_8B | {"torch_dtype": "bfloat16"}
    nf4 = LORA | {"trainable_embeddings": "no", "base_precision": "nf4"}
    large = mebibytes(placed(half, nf4, tmp_path, Wish("gpu", watcher="cpu"))["train_memory"])
    weights = 2 * shapes_of(half).tree.weights / 2**20
    assert 1.2 * weights < large < 1.5 * weights  # 18 GiB, not the 24 GiB that 0.75 of the node is


def test_memory_of_a_cpu_training_is_the_predicted_one_with_a_fifth_more(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": 2}))
    wish, recipe = Wish("cpu", watcher="cpu"), TINY | {"trainable_embeddings": "no"}
    best, _ = decide(tmp_path, parse(recipe), POOLS, 0.0, "cheapest", 0.5, Measurement(), wish)
    assert best.memory.total <= best.room_bytes == POOLS["cpu"].memory_bytes // 2
    asked = placed(LLAMA_8B | {"num_hidden_layers": 2}, recipe, tmp_path, wish)["train_memory"]
    assert mebibytes(asked) == min(int(1.2 * best.memory.total), best.room_bytes) // 2**20


def test_preemptions_are_in_the_price_of_spot_and_can_make_it_the_dearer_one(tmp_path):
    recipe, shapes = parse(LORA), shapes_of(SMALL)
    spot = POOLS["gpu-spot"]
    calm = _with(spot, preemptions_per_hour=0.0)
    torn = _with(spot, preemptions_per_hour=120.0)
    rates = [speed.lost_to_preemption(pool, recipe) for pool in (calm, spot, torn)]
    assert rates == pytest.approx([0.0, 0.1 * 210 / 3600, 120 * 210 / 3600])  # half of 300 s, and a start
    usd = [
        speed.estimate(shapes, recipe, pool, "single", 1, 0.5, 0.0).usd_p50 or 0.0
        for pool in (calm, spot, torn)
    ]
    assert usd[0] < usd[1] < usd[2]
    assert placed(SMALL, LORA, tmp_path)["train_pool"] == "gpu-spot"
    assert placed(SMALL, LORA, tmp_path, pools=POOLS | {"gpu-spot": torn})["train_pool"] == "gpu"


def _with(pool: NodePool, **changed: Any) -> NodePool:
    return msgspec.structs.replace(pool, **changed)


def test_outputs_are_written_as_the_launcher_reads_them(tmp_path):
    names = ["train_pool", "train_selector", "train_taints", "train_devices", "scoring_memory"]
    flags = flags_of(tmp_path) | {"nodepools": json.dumps(shipped.prices()), "watcher": "cpu"}
    flags |= {"placed": json.dumps({name: str(tmp_path / "out" / name) for name in names})}
    assert run(flags) == 0
    text = {name: (tmp_path / "out" / name).read_text() for name in names}
    assert text["train_pool"] == "gpu-spot" and text["train_devices"] == "1"
    assert json.loads(text["train_selector"]) == {"node-pool": "gpu-spot"}
    assert [taint["key"] for taint in json.loads(text["train_taints"])] == [
        "nvidia.com/gpu",
        "cloud.google.com/gke-spot",
    ]
    assert text["scoring_memory"].endswith("Mi")
