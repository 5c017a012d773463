"""What doctor says of a cluster, against a server that answers as Kubernetes does."""

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console

from deepcuts.components.tune_katib import algorithms, register
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import checkup, plan
from deepcuts.pipelines.command.doctor import Finding

Json = dict[str, Any]


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Json]]:
    """What the server of KUBECONFIG holds, by path; everything else is missing there."""
    held: dict[str, Json] = {"/version/": {"gitVersion": "v1.34.4", "major": "1", "minor": "34"}}
    needed = "buildDate compiler gitCommit gitTreeState goVersion platform"
    held["/version/"] |= dict.fromkeys(needed.split(), "")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = held.get(self.path, {"code": 404})
            data = json.dumps(value).encode()
            self.send_response(value.get("code", 200))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    kubeconfig(tmp_path, monkeypatch, server.server_port)
    yield held
    server.shutdown()
    server.server_close()


def kubeconfig(folder: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    value = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(value))
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))


def found() -> dict[str, Finding]:
    return {finding.subject: finding for finding in checkup.examine(pools.read(), "kubeflow")}


def deployment(image: str) -> Json:
    template = {"spec": {"containers": [{"name": "main", "image": image}]}}
    spec = {"selector": {}, "template": template}
    return {"metadata": {}, "spec": spec, "status": {"readyReplicas": 1}}


def node(
    name: str, labels: dict[str, str], devices: dict[str, str], taints: list[Json], images: Sequence[str] = ()
) -> Json:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": devices, "images": [{"names": [image]} for image in images]},
    }


def test_empty_cluster_has_a_fix_for_everything(objects):
    findings = found()
    assert findings["cluster"].state == "Kubernetes v1.34.4"
    assert all(f.fix for name, f in findings.items() if name not in ("cluster", "node pools"))


@pytest.mark.parametrize(("tag", "missing"), [("2.16.1", True), ("2.17.0", False), ("v2.18.1", False)])
def test_version_with_known_holes_is_refused(objects, tag, missing):
    path = "/apis/apps/v1/namespaces/kubeflow/deployments/ml-pipeline"
    objects[path] = deployment(f"ghcr.io/kubeflow/kfp-api-server:{tag}")
    assert found()["ml-pipeline"].missing == missing
    objects[path] = deployment("ghcr.io/kubeflow/kfp-api-server@sha256:ab12")
    assert "version unknown" in found()["ml-pipeline"].fix


def test_settings_with_a_key_less_are_named_and_secrets_not_shown(objects):
    objects["/api/v1/namespaces/kubeflow/secrets/mlpipeline-minio-artifact"] = {
        "metadata": {},
        "data": {"accesskey": "c2VjcmV0"},
    }
    finding = found()["mlpipeline-minio-artifact"]
    assert (
        finding.state == "lacks secretkey"
        and "create secret" in finding.fix
        and "c2VjcmV0" not in str(finding)
    )


def test_pools_without_node_device_or_taint_are_told_apart(objects):
    objects["/api/v1/nodes"] = {
        "items": [
            node("a", {"node-pool": "cpu"}, {}, []),
            node("b", {"node-pool": "gpu"}, {"nvidia.com/gpu": "1"}, []),
            node("c", {"node-pool": "gpu-spot"}, {}, [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]),
        ]
    }
    findings = found()
    assert not findings["pool cpu"].fix
    assert findings["pool gpu"].fix.startswith("kubectl taint nodes -l node-pool=gpu")
    assert "device plugin" in findings["pool gpu-spot"].fix
    del objects["/api/v1/nodes"]["items"][0]
    assert "no node with node-pool=cpu" in found()["pool cpu"].state


def test_what_this_user_may_not_see_is_no_fault_of_the_cluster(objects):
    objects["/api/v1/namespaces/kubeflow/secrets/mlpipeline-minio-artifact"] = {"code": 403}
    finding = found()["mlpipeline-minio-artifact"]
    assert finding.state == "this user may not read it" and not finding.fix


def test_cluster_that_is_away_is_told(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, 9)
    (finding,) = checkup.examine(pools.read(), "kubeflow")
    assert "no answer" in finding.state and "KUBECONFIG" in finding.fix


IMAGE = "localhost/deepcuts/ops:v1"


@pytest.fixture
def katib(objects: dict[str, Json]) -> dict[str, Json]:
    """A cluster with Katib, with nothing for us in it yet."""
    names = {"plural": "experiments", "kind": "Experiment"}
    schema = {"name": "v1beta1", "served": True, "storage": True}
    spec = {"group": "kubeflow.org", "names": names, "scope": "Namespaced", "versions": [schema]}
    objects["/apis/apiextensions.k8s.io/v1/customresourcedefinitions/experiments.kubeflow.org"] = {
        "spec": spec
    }
    configure(objects, yaml.safe_dump({"runtime": {"suggestions": [{"algorithmName": "tpe", "image": "t"}]}}))
    objects["/api/v1/namespaces/kubeflow"] = {"metadata": {"labels": {"a": "b"}}}
    return objects


def configure(objects: dict[str, Json], text: str) -> None:
    path = f"/api/v1/namespaces/{checkup.KATIB}/configmaps/{checkup.CONFIG}"
    objects[path] = {"metadata": {}, "data": {checkup.KEY: text}}


def registered(objects: dict[str, Json], image: str) -> None:
    """As manifests/katib does it."""
    text = objects[f"/api/v1/namespaces/{checkup.KATIB}/configmaps/{checkup.CONFIG}"]["data"][checkup.KEY]
    configure(objects, register.registered(text, {"algorithmName": "asha", "image": image}))


def test_searches_need_our_algorithm_and_the_label_of_their_namespace(katib):
    findings = found()
    assert findings["Katib"].state == "v1beta1" and not findings["Katib"].fix
    asha, label = findings["algorithm asha"], findings["trials in kubeflow"]
    assert (asha.state, asha.fix) == ("not registered", "kubectl apply -k manifests/katib")
    assert label.fix == (
        "kubectl label --overwrite namespace kubeflow katib.kubeflow.org/metrics-collector-injection=enabled"
    )
    registered(katib, "registry.example/deepcuts/ops:v1")
    katib["/api/v1/namespaces/kubeflow"]["metadata"]["labels"][checkup.LABEL] = "enabled"
    findings = found()
    assert findings["algorithm asha"].state == "registered, registry.example/deepcuts/ops:v1"
    assert not findings["algorithm asha"].fix and not findings["trials in kubeflow"].fix


def test_a_command_is_shown_whole_however_narrow_the_window(katib, capsys, monkeypatch):
    monkeypatch.setattr(plan, "out", Console(width=80))
    with pytest.raises(typer.Exit):
        plan.doctor()
    fixes = [line.split("│")[-2].strip() for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert "katib.kubeflow.org/metrics-collector-injection=enabled" in "".join(fixes)


@pytest.mark.parametrize("value", ["disabled", "Enabled", ""])
def test_any_other_value_of_the_label_is_told(katib, value):
    katib["/api/v1/namespaces/kubeflow"]["metadata"]["labels"][checkup.LABEL] = value
    assert found()["trials in kubeflow"].fix.startswith("kubectl label --overwrite namespace kubeflow")


def test_an_image_that_cannot_be_pulled_has_to_be_on_every_node_that_may_start_the_service(katib):
    registered(katib, IMAGE)
    gpu = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]
    nodes = [node("a", {}, {}, [], ["x:1", IMAGE]), node("b", {}, {}, []), node("c", {}, {}, gpu)]
    katib["/api/v1/nodes"] = {"items": nodes}
    finding = found()["algorithm asha"]
    assert finding.state == f"{IMAGE} is not on b, nor in a registry"
    assert "newTag in manifests/katib/kustomization.yaml" in finding.fix
    nodes[1] = node("b", {}, {}, [], [f"x:{number}" for number in range(checkup.MAX_IMAGES)])
    assert not found()["algorithm asha"].fix  # a kubelet lists no more
    nodes[1] = node("b", {}, {}, [], [IMAGE])
    assert not found()["algorithm asha"].fix


@pytest.mark.parametrize("text", ["{", "a: 1", "runtime: {suggestions: [asha]}", ""])
def test_a_broken_configuration_of_katib_is_told_with_its_remedy(katib, text):
    configure(katib, text)
    assert "kubectl -n kubeflow edit configmap katib-config" in found()["algorithm asha"].fix


def test_an_entry_without_an_image_is_registered_anew(katib):
    configure(katib, "runtime: {suggestions: [{algorithmName: tpe}, {algorithmName: asha}]}")
    assert found()["algorithm asha"].fix == "kubectl apply -k manifests/katib"


def test_katib_elsewhere_or_out_of_sight_is_told_apart(katib):
    del katib["/api/v1/namespaces/kubeflow/configmaps/katib-config"]
    assert "namespace in manifests/katib/kustomization.yaml" in found()["algorithm asha"].fix
    katib["/api/v1/namespaces/kubeflow/configmaps/katib-config"] = {"code": 403}
    katib["/api/v1/namespaces/kubeflow"] = {"code": 403}
    findings = found()
    assert "not read it" in findings["algorithm asha"].state and not findings["algorithm asha"].fix
    assert "not read it" in findings["trials in kubeflow"].state and not findings["trials in kubeflow"].fix


def test_names_are_those_of_the_step_that_registers():
    assert (checkup.CONFIG, checkup.KEY, checkup.ALGORITHM) == (
        register.CONFIG,
        register.KEY,
        algorithms.ASHA,
    )
