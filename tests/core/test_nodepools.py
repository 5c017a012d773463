import pytest

from deepcuts.components.core import nodepools

CPU = {"name": "cpu", "selector": {"node-pool": "cpu"}, "cpu_cores": 4, "memory_bytes": 16 << 30}
GPU = CPU | {
    "name": "gpu",
    "accelerator": "nvidia.com/gpu",
    "accelerator_count": 1,
    "tolerations": [{"key": "nvidia.com/gpu"}],
}


def problems(*pools: object) -> list[str]:
    with pytest.raises(ValueError) as error:
        nodepools.parse({"pools": list(pools)})
    return str(error.value).splitlines()


def test_nodepools_reads_pools_by_name(tmp_path):
    path = tmp_path / "nodepools.yaml"
    path.write_text(
        "pools:\n"
        "- {name: cpu, selector: {node-pool: cpu}, cpu_cores: 3.5, memory_bytes: 8_000_000_000}\n"
        "- name: spot\n"
        "  selector: {node-pool: gpu-spot}\n"
        "  tolerations: [{key: nvidia.com/gpu}, {key: cloud.google.com/gke-spot, value: 'true'}]\n"
        "  accelerator: nvidia.com/gpu\n"
        "  accelerator_count: 1\n"
        "  cpu_cores: 8\n"
        "  memory_bytes: 32_000_000_000\n"
        "  spot: true\n"
        "  usd_per_hour: 0.28\n"
        "  price_source: user\n"
        "  price_date: 2026-11-01\n"
    )
    pools = nodepools.read(path)
    assert [*pools] == ["cpu", "spot"]
    assert pools["cpu"].cpu_cores == 3.5 and pools["cpu"].tolerations == ()
    assert pools["spot"].tolerations[1] == nodepools.Toleration("cloud.google.com/gke-spot", "true")
    assert (pools["spot"].usd_per_hour, pools["spot"].price_date) == (0.28, "2026-11-01")


def test_nodepools_unknown_price_stays_unknown():
    assert nodepools.parse({"pools": [CPU]})["cpu"].usd_per_hour is None


def test_nodepools_free_of_charge_is_a_price():
    free = CPU | {"usd_per_hour": 0, "price_source": "user", "price_date": "2026-11-01"}
    assert nodepools.parse({"pools": [free]})["cpu"].usd_per_hour == 0.0


def test_nodepools_reports_every_problem_at_once():
    assert problems(CPU | {"cpu_cores": 0, "spott": True}, GPU | {"memory_bytes": -1}, {"name": "x"}) == [
        "nodepools.pools[0].spott: unknown key: did you mean 'spot'?",
        "nodepools.pools[0].cpu_cores: expected a number > 0.0, got 0",
        "nodepools.pools[1].memory_bytes: expected a whole number >= 1, got -1",
        "nodepools.pools[2].selector: missing: give it a value",
        "nodepools.pools[2].cpu_cores: missing: give it a value",
        "nodepools.pools[2].memory_bytes: missing: give it a value",
    ]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (GPU | {"accelerator_count": 0}, "set both or neither"),
        (CPU | {"accelerator_count": 1}, "set both or neither"),
        (CPU | {"usd_per_hour": 1.0}, "set price_source and price_date"),
        (CPU | {"usd_per_hour": 1.0, "price_source": "user"}, "set price_source and price_date"),
        (CPU | {"usd_per_hour": -1.0, "price_source": "u", "price_date": "d"}, "usd_per_hour: expected"),
        (CPU | {"usd_per_hour": float("inf"), "price_source": "u", "price_date": "d"}, "a finite number"),
    ],
)
def test_nodepools_refuses_a_pool_that_contradicts_itself(pool, message):
    (problem,) = problems(pool)
    assert problem.startswith("nodepools.pools[0]") and message in problem


def test_nodepools_refuses_a_name_given_twice():
    (problem,) = problems(CPU, GPU, CPU)
    assert "a pool name is given twice: ['cpu', 'gpu', 'cpu']: rename one" in problem


@pytest.mark.parametrize(
    ("cpu_selector", "gpu_selector"),
    [({}, {"pool": "gpu"}), ({"kubernetes.io/os": "linux"}, {"pool": "gpu"}), ({"pool": "x"}, {"pool": "x"})],
)
def test_cpu_pool_that_could_reach_untainted_gpu_nodes_is_refused(cpu_selector, gpu_selector):
    cpu, gpu = CPU | {"selector": cpu_selector}, GPU | {"selector": gpu_selector, "tolerations": []}
    with pytest.raises(ValueError, match="tasks of pool 'cpu' could land on nvidia.com/gpu nodes of 'gpu'"):
        nodepools.parse({"pools": [cpu, gpu]})
    assert nodepools.parse({"pools": [cpu, gpu | {"tolerations": [{"key": "nvidia.com/gpu"}]}]})


def test_cpu_pool_that_tolerates_the_taint_needs_another_label():
    tolerations = [{"key": "nvidia.com/gpu", "value": "present"}]
    gpu = GPU | {"selector": {"pool": "gpu"}, "tolerations": tolerations}
    loose = CPU | {"selector": {}, "tolerations": [{"key": "nvidia.com/gpu"}]}
    with pytest.raises(ValueError, match="could land"):
        nodepools.parse({"pools": [loose, gpu]})
    assert nodepools.parse({"pools": [loose | {"selector": {"pool": "cpu"}}, gpu]})
