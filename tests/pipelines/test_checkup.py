"""What doctor says of a cluster, against a server that answers as Kubernetes does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import checkup, settings
from pipelines.doctor import Finding

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
    return {finding.subject: finding for finding in checkup.examine(settings.pools(), "kubeflow")}


def deployment(image: str) -> Json:
    template = {"spec": {"containers": [{"name": "main", "image": image}]}}
    spec = {"selector": {}, "template": template}
    return {"metadata": {}, "spec": spec, "status": {"readyReplicas": 1}}


def node(name: str, labels: dict[str, str], devices: dict[str, str], taints: list[Json]) -> Json:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": devices},
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
    assert finding.state == "this user may not look" and not finding.fix


def test_cluster_that_is_away_is_told(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, 9)
    (finding,) = checkup.examine(settings.pools(), "kubeflow")
    assert "no answer" in finding.state and "KUBECONFIG" in finding.fix
