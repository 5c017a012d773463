"""Who may reach whom, by the network policies that a cluster is given: rendered, then asked pod by pod."""

import ipaddress
from typing import Any

import pytest
import yaml

from deepcuts.components.core import pods
from tests.conftest import ROOT
from tests.manifests.rendering import rendered

Json = dict[str, Any]
Labels = dict[str, str]
STEP = pods.LABELS | {"pipelines.kubeflow.org/v2_component": "true", "node-pool": "cpu"}
JOB = pods.LABELS | {"node-pool": "cpu"}
SERVER = pods.LABELS | {"app": "deepcuts-serving"}
OURS = {"step": STEP, "job": JOB, "server": SERVER}
PODS: dict[str, Labels] = OURS | {
    "minio": {"app": "minio"},
    "seaweedfs": {"app": "seaweedfs"},
    "pipelines": {"app": "ml-pipeline"},
    "metadata": {"component": "metadata-grpc-server"},
    "mysql": {"app": "mysql"},
    "ui": {"app": "ml-pipeline-ui"},
    "mlflow": {"app": "mlflow"},
    "registry": {"component": "model-registry-server"},
    "katib": {"katib.kubeflow.org/component": "db-manager"},
    "client": {"deepcuts-client": "true"},
}
"""Labels as Kubeflow Pipelines 2.17, Katib 0.19 and Model Registry 0.3 give them."""
PORTS = [80, 443, 3306, 5000, 6443, 6789, 8000, 8080, 8111, 8333, 8443, 8887, 8888, 9000, 9333, 29500]
ADDRESSES = {"api server": "10.96.0.1", "hub": "18.164.174.23", "metadata service": "169.254.169.254"}
STORE = {("minio", 9000), ("minio", 8333), ("seaweedfs", 9000), ("seaweedfs", 8333)}
LAUNCHER = {("pipelines", 8887), ("metadata", 8080)}
API_SERVER = {("api server", 443), ("api server", 6443)}
HUB = {("hub", 443)}


def policies(*folders: str) -> list[Json]:
    found = [value for folder in folders for value in rendered(folder) if value["kind"] == "NetworkPolicy"]
    assert found and len({p["metadata"]["name"] for p in found}) == len(found)
    return [policy["spec"] for policy in found]


def chooses(selector: Json, labels: Labels) -> bool:
    """Say whether a label selector has these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        is_in = labels.get(rule["key"]) in rule["values"]
        if is_in != {"In": True, "NotIn": False}[rule["operator"]]:
            return False
    return True


def covers(end: Json, target: str) -> bool:
    """Say whether one end of a rule is a pod by its labels, or an address by its block."""
    if "ipBlock" in end:
        address = ipaddress.ip_address(ADDRESSES.get(target, "10.244.0.9"))  # pods have addresses, too
        block = end["ipBlock"]
        within = [address in ipaddress.ip_network(net) for net in (block["cidr"], *block.get("except", []))]
        return within[0] and not any(within[1:])
    return target in PODS and chooses(end.get("podSelector", {}), PODS[target])


def reached(specs: list[Json], source: str, side: str = "egress") -> set[tuple[str, int]]:
    """Return what a pod may reach (or, on ``ingress``, what may reach it), with the port."""
    own = [spec for spec in specs if chooses(spec["podSelector"], PODS[source])]
    assert any(side.capitalize() in spec["policyTypes"] for spec in own), "else all is open"
    rules = [rule for spec in own for rule in spec.get(side, [])]
    return {
        (target, port)
        for target in [*PODS, *(ADDRESSES if side == "egress" else ())]
        for port in PORTS
        for rule in rules
        if any(covers(end, target) for end in rule["to" if side == "egress" else "from"])
        and port in [p["port"] for p in rule["ports"]]
    }


def not_by_address(found: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Leave out 443 and 6443 of any pod: no policy can tell the API server's address from a pod's."""
    return {(target, port) for target, port in found if target in ADDRESSES or port not in (443, 6443)}


@pytest.mark.parametrize("source", OURS)
def test_on_a_laptop_each_kind_of_pod_reaches_what_it_needs_and_nothing_else(source):
    more = {"step": LAUNCHER | API_SERVER | HUB, "job": API_SERVER | HUB, "server": set()}[source]
    found = not_by_address(reached(policies("overlays/laptop", "serving/cpu"), source))
    assert found == STORE | more


@pytest.mark.parametrize("source", OURS)
def test_in_a_cloud_the_store_is_outside_and_no_pod_of_the_namespace_is_one(source):
    more = {"step": LAUNCHER | API_SERVER, "job": API_SERVER, "server": {("api server", 443)}}[source]
    found = not_by_address(reached(policies("overlays/cloud", "serving/gpu"), source))
    assert found == HUB | more


def test_trials_alone_need_katibs_database_manager_and_every_job_may_ask_it():
    specs = policies("overlays/laptop", "katib")
    assert ("katib", 6789) in reached(specs, "job")
    assert {target for target, port in reached(specs, "job") if port == 6789} == {"katib"}


def test_pods_that_train_together_reach_each_other_and_no_other_pod_reaches_them():
    (policy,) = [spec for spec in policies("trainer") if "app" in spec["podSelector"]["matchLabels"]]
    (pod,) = [v for v in rendered("trainer") if v["kind"] == "TrainingRuntime"]
    (job,) = pod["spec"]["template"]["spec"]["replicatedJobs"]
    labels = job["template"]["spec"]["template"]["metadata"]["labels"]
    assert chooses(policy["podSelector"], labels) and not chooses(policy["podSelector"], JOB)
    for side, end in (("ingress", "from"), ("egress", "to")):
        (rule,) = policy[side]
        (other,) = rule[end]
        assert chooses(other["podSelector"], labels) and not chooses(other["podSelector"], JOB)
        (ports,) = rule["ports"]
        assert ports["port"] <= 29400 <= ports["endPort"]  # and what NCCL and Gloo pick


@pytest.mark.parametrize("source", OURS)
def test_nobody_talks_to_our_pods_but_clients_to_servers(source):
    allowed = {("client", 8000)} if source == "server" else set()
    assert reached(policies("overlays/laptop", "serving/cpu", "katib"), source, "ingress") == allowed


def test_mlflow_and_model_registry_are_reached_once_their_option_is_chosen():
    closed = policies("overlays/cloud")
    (option,) = yaml.safe_load_all((ROOT / "manifests/options/services/network.yaml").read_text())
    new = reached([*closed, option["spec"]], "step") - reached(closed, "step")
    assert new == {("mlflow", 5000), ("registry", 8080)}
    assert reached([*closed, option["spec"]], "job") == reached(closed, "job")


def test_head_and_workers_of_a_rayjob_talk_to_each_other_and_the_operator_alone_asks_for_jobs():
    (option,) = yaml.safe_load_all((ROOT / "manifests/options/ray/network.yaml").read_text())
    spec, node = option["spec"], pods.LABELS | {"node-pool": "cpu", "ray.io/is-ray-node": "yes"}
    assert chooses(spec["podSelector"], node) and not chooses(spec["podSelector"], STEP)
    (sent,) = spec["egress"]
    among, asked = spec["ingress"]
    for rule, side in ((sent, "to"), (among, "from")):
        (end,) = rule[side]
        assert chooses(end["podSelector"], node) and not chooses(end["podSelector"], JOB)
        assert "ports" not in rule and "namespaceSelector" not in end
    (operator,) = asked["from"]
    assert operator.keys() == {"namespaceSelector", "podSelector"}
    assert [port["port"] for port in asked["ports"]] == [8265]


def test_steps_of_a_pipeline_get_the_right_to_rayjobs_and_to_nothing_else_by_the_option():
    role, binding = yaml.safe_load_all((ROOT / "manifests/options/ray/access.yaml").read_text())
    (rule,) = role["rules"]
    assert rule["apiGroups"] == ["ray.io"] and rule["resources"] == ["rayjobs"]
    assert set(rule["verbs"]) == {"create", "get", "list", "delete"}
    assert [subject["name"] for subject in binding["subjects"]] == ["pipeline-runner"]
