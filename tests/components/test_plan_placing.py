"""Where plan puts training: which pools may take it, what its pod asks for, what a spot node costs."""

import json
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import nodepools, strict
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import parse
from deepcuts.components.plan import choice, decision, placing, scoring, speed, students
from deepcuts.components.plan.architecture import parse as shapes_of
from deepcuts.components.plan.choice import PlanTask
from deepcuts.components.plan.decision import PlanDecision, PlanTerms, decide, outputs
from deepcuts.components.plan.placing import CompiledFor, Wish
from deepcuts.components.plan.scoring import ScoringWork
from deepcuts.components.tune.space import Dimension
from deepcuts.pipelines import pools as shipped
from deepcuts.pipelines import stages
from tests.components.test_plan import LLAMA_8B, LORA, SMALL, flags_of, run

POOLS = shipped.read()
HALF_8B = LLAMA_8B | {"torch_dtype": "bfloat16"}
TEAM = CompiledFor("nvidia.com/gpu", "team")
AMD = CompiledFor("amd.com/gpu")
TINY = {"budget_tokens": 20_000, "tokens_per_step": 2048, "seq_len": 256, "method": "lora"}


WATCHED = Wish(watched=True)
NOTHING = scoring.work(500, 512, ["off"], "cpu")


def decided(
    config: dict[str, Any],
    recipe: dict[str, Any],
    wish: Wish = WATCHED,
    pools: dict[str, NodePool] = POOLS,
    work: ScoringWork = NOTHING,
) -> tuple[PlanDecision, PlanTask]:
    task = PlanTask(shapes_of(config), parse(recipe), answer_share=0.5)
    return decide(task, pools, wish, PlanTerms(), work), task


def placed(
    config: dict[str, Any],
    recipe: dict[str, Any],
    wish: Wish = WATCHED,
    pools: dict[str, NodePool] = POOLS,
    work: ScoringWork = NOTHING,
) -> dict[str, Any]:
    """What the plan's outputs say."""
    made, task = decided(config, recipe, wish, pools, work)
    return outputs(made, task, pools, task.recipe, work)


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi")
    return int(quantity[:-2])


def test_small_work_goes_to_the_cpu_pool_and_shares_its_node_with_the_watcher():
    made = placed(SMALL, TINY, work=ScoringWork(20_000, "no"))
    assert made["train_pool"] == made["scoring_pool"] == made["watch_pool"] == "cpu"
    assert made["train_selector"] == {"node-pool": "cpu"}
    assert made["train_taints"] == []
    assert made["train_devices"] == "0"
    # training, its watcher and the evaluation of the base run at the same time
    cores = sum(float(made[f"{place}_cpu"]) for place in ("train", "watch", "scoring"))
    assert cores <= POOLS["cpu"].cpu_cores and float(made["train_cpu"]) == 2.0
    asked = sum(mebibytes(made[f"{place}_memory"]) for place in ("train", "watch", "scoring"))
    assert asked * 2**20 <= POOLS["cpu"].memory_bytes


def test_large_work_goes_to_the_spot_pool_because_it_is_cheapest_with_its_taints_and_card():
    made = placed(HALF_8B, LORA | {"trainable_embeddings": "no", "base_precision": "nf4"})
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
    assert made["train_devices"] == "1"
    assert (made["scoring_pool"], made["scoring_cpu"]) == ("gpu-spot", "4")


def test_never_spot_takes_on_demand_and_a_named_pool_is_taken_whatever_it_costs():
    large = LORA | {"trainable_embeddings": "no", "base_precision": "nf4"}
    never = Wish(spot="never", watched=True)
    assert placed(HALF_8B, large, never)["train_pool"] == "gpu"
    assert placed(SMALL, TINY, Wish("gpu", watched=True))["train_pool"] == "gpu"


def test_on_a_closed_pool_nothing_is_planned_and_the_next_best_is_taken():
    cheapest = placed(SMALL, TINY, Wish(watched=True))
    pools = nodepools.parse(nodepools.with_closed(POOLS, cheapest["train_pool"]))
    assert [name for name, pool in pools.items() if pool.closed] == [cheapest["train_pool"]]
    made = placed(SMALL, TINY, Wish(watched=True), pools)
    assert made["train_pool"] != cheapest["train_pool"] != made["scoring_pool"]
    with pytest.raises(ValueError, match="it is closed in nodepools, or name another"):
        placing.barred(pools, Wish(cheapest["train_pool"]))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish("gup"), "no node pool 'gup' to plan for: give auto, or one of cpu, gpu, gpu-spot"),
        (
            Wish("gpu-spot", "never"),
            "pool 'gpu-spot' cannot run the training: it is a spot pool",
        ),
        (Wish("gpu", compiled_for=TEAM), "its queue is '' and the task is labelled for 'team'"),
        (
            Wish("gpu", compiled_for=AMD),
            "its accelerator is nvidia.com/gpu and the task is compiled for amd.com",
        ),
    ],
)
def test_a_wish_that_cannot_be_kept_is_refused_with_its_reason(wish, words):
    with pytest.raises(ValueError, match=words):
        placing.barred(POOLS, wish)


def test_pools_of_another_queue_are_not_taken_for_their_pods_cannot_be_labelled():
    value = {"pools": [{**one} for one in shipped.prices()["pools"]]}
    value["pools"][1]["queue"] = "team"
    pools = nodepools.parse(value)
    assert set(placing.barred(pools, Wish(compiled_for=TEAM))) == {"cpu", "gpu-spot"}
    assert placed(SMALL, TINY, Wish(compiled_for=TEAM), pools)["train_pool"] == "gpu"


def test_requests_follow_the_model_and_not_the_node():
    small = placed(SMALL, TINY, Wish("gpu", watched=True))
    assert float(small["train_cpu"]) == 4 and mebibytes(small["train_memory"]) < 3 * 1024
    nf4 = LORA | {"trainable_embeddings": "no", "base_precision": "nf4"}
    large = mebibytes(placed(HALF_8B, nf4, Wish("gpu", watched=True))["train_memory"])
    weights = 2 * shapes_of(HALF_8B).tree.weights / 2**20
    assert 1.2 * weights < large < 1.5 * weights  # 18 GiB, not the 24 GiB that 0.75 of the node is


def test_memory_of_a_cpu_training_is_the_predicted_one_with_a_fifth_more():
    wish, recipe = Wish("cpu", watched=True), TINY | {"trainable_embeddings": "no"}
    work = ScoringWork(1000, "no")  # evaluated on the same pool
    best = decided(LLAMA_8B | {"num_hidden_layers": 2}, recipe, wish, work=work)[0].best
    assert best.memory.total <= best.room_bytes == POOLS["cpu"].memory_bytes // 2
    asked = placed(LLAMA_8B | {"num_hidden_layers": 2}, recipe, wish, work=work)["train_memory"]
    assert mebibytes(asked) == min(int(1.2 * best.memory.total), best.room_bytes) // 2**20


def test_scoring_takes_the_passes_that_its_bytes_are_predicted_for():
    from deepcuts.components.training import scoring as passes

    assert (scoring.BATCH_TOKENS, scoring.LOGIT_BYTES) == (passes.BATCH_TOKENS, passes.LOGIT_BYTES)
    assert passes.pass_tokens(32_000) == 16_384 and passes.pass_tokens(128_256) == 4_185
    gpu = scoring.load(shapes_of(HALF_8B), POOLS["gpu"], answer_share=1.0)
    assert 16e9 < gpu.device < POOLS["gpu"].accelerator_memory_bytes and 16e9 < gpu.host < 18e9
    assert 32e9 < scoring.load(shapes_of(HALF_8B), POOLS["cpu"], answer_share=1.0).host < 40e9


def test_models_are_scored_where_it_costs_least_and_fits_but_watched_without_accelerators():
    long = scoring.work(500, 512, ["off"], "cpu")
    small, large = decided(SMALL, TINY, work=ScoringWork(1000, "no"))[0], decided(SMALL, TINY, work=long)[0]
    assert (small.scoring.pool, large.scoring.pool) == ("cpu", "gpu-spot")
    assert large.watch and large.watch.pool == "cpu"
    never = decided(SMALL, TINY, Wish(spot="never", watched=True), work=long)[0]
    assert never.scoring.pool != "gpu-spot"
    (spot,) = [option for option in never.scoring_rejected if option.pool == "gpu-spot"]
    assert "spot is never" in spot.reason
    nf4 = LORA | {"trainable_embeddings": "no", "base_precision": "nf4"}
    eight = decided(HALF_8B, nf4)[0]
    assert eight.watch and eight.watch.pool == eight.scoring.pool == "gpu-spot"  # in 12 GiB it does not fit
    assert "do not fit" not in eight.watch.reason and "does not fit" in eight.scoring_rejected[0].reason
    cpu = {"cpu": POOLS["cpu"]}
    with pytest.raises(ValueError, match="no node pool has memory for model scoring: on the nearest, cpu"):
        decided(HALF_8B, nf4, pools=cpu)


def test_trying_formats_takes_memory_and_time_where_the_judge_is():
    gguf, none = (scoring.work(500, 512, formats, "cpu") for formats in (["auto"], ["off"]))
    vllm = scoring.work(500, 512, ["auto"], "gpu")
    assert (none.quantizes, gguf.quantizes, vllm.quantizes) == ("no", "cpu", "gpu")
    memory = [
        mebibytes(placed(HALF_8B | {"num_hidden_layers": 8}, TINY, work=work)["scoring_memory"])
        for work in (none, gguf, vllm)
    ]
    assert memory[0] < memory[1] < memory[2]
    hours = [scoring.seconds(shapes_of(SMALL), POOLS["cpu"], work) for work in (none, gguf)]
    assert hours[0] and hours[1] and hours[0][0] == hours[1][0] and hours[0][1][0] < hours[1][1][0]


def test_a_teacher_is_in_the_memory_and_the_hours_of_its_student():
    student = students.student(shapes_of(SMALL), "every-2", {})
    assert student.tree.layers == 4
    assert students.student(shapes_of(SMALL), "all", {"hidden_size": 256}).tree.width == 256
    alone = PlanTask(student, parse(TINY), answer_share=0.5)
    taught = alone._replace(teacher=shapes_of(SMALL))
    (one, *_), (two, *_) = (choice.options(task, {"gpu": POOLS["gpu"]}) for task in (alone, taught))
    weights = 2 * shapes_of(SMALL).tree.weights
    assert two.memory.weights - one.memory.weights == weights
    assert one.estimate and two.estimate and two.estimate.hours_p50 > one.estimate.hours_p50
    assert taught.largest == taught.teacher and alone.largest == student


def test_a_student_that_writes_takes_longer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    hours = {}
    for method in ("forward-kl", "on-policy"):
        teaching = students.Teaching(teacher=str(tmp_path), method=method)
        (option, *_) = choice.options(
            teaching.task(shapes_of(SMALL), parse(TINY), 0.5), {"gpu": POOLS["gpu"]}
        )
        hours[method] = option.estimate.hours_p50
    assert hours["on-policy"] > hours["forward-kl"]


def test_a_distillation_is_one_process_whatever_a_node_has(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    given = {"teacher": str(tmp_path), "layers": "every-2"}
    tasks = {
        method: students.Teaching(**given, method=method).task(shapes_of(SMALL), parse(TINY), 0.5)
        for method in ("", "none", "forward-kl")
    }
    assert [task.single for task in tasks.values()] == [False, True, True]
    assert [task.teacher is not None for task in tasks.values()] == [False, False, True]
    eight = _with(POOLS["gpu"], accelerator_count=8, interconnect_bytes_per_second=3e11)
    ways = {
        method: {option.strategy for option in choice.options(task, {"gpu": eight})}
        for method, task in tasks.items()
    }
    assert ways["none"] == ways["forward-kl"] == {"single"} and "fsdp" in ways[""]


def test_a_search_is_sized_for_its_heaviest_trial_and_as_many_as_run_at_a_time():
    space = strict.decode(dict[str, Dimension], stages.SPACE, "space")
    task = PlanTask(shapes_of(SMALL), parse(TINY), answer_share=0.5)
    heaviest = decision.heaviest(task, space)
    assert heaviest.recipe.method == "full"  # TINY is LoRA
    (one, *_), (three, *_) = (
        choice.options(heaviest._replace(copies=copies), {"gpu": POOLS["gpu"]}) for copies in (1, 3)
    )
    assert three.room_bytes == one.room_bytes // 3
    two = decide(heaviest._replace(copies=2), POOLS, Wish("gpu"), PlanTerms(), ScoringWork(1000, "no"))
    single = decide(heaviest, POOLS, Wish("gpu"), PlanTerms(), ScoringWork(1000, "no"))
    asked = [
        mebibytes(outputs(made, task, POOLS, task.recipe, ScoringWork(1000, "no"))["train_memory"])
        for made, task in ((single, heaviest), (two, heaviest._replace(copies=2)))
    ]
    assert asked[0] < asked[1]


def test_preemptions_are_in_the_price_of_spot_and_can_make_it_the_dearer_one():
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
    assert placed(SMALL, LORA)["train_pool"] == "gpu-spot"
    assert placed(SMALL, LORA, pools=POOLS | {"gpu-spot": torn})["train_pool"] == "gpu"


def _with(pool: NodePool, **changed: Any) -> NodePool:
    return msgspec.structs.replace(pool, **changed)


def test_outputs_are_written_as_the_launcher_reads_them(tmp_path):
    names = ["train_pool", "train_selector", "train_taints", "train_devices", "scoring_memory"]
    flags = flags_of(tmp_path) | {"nodepools": json.dumps(shipped.prices()), "watched": "true"}
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
