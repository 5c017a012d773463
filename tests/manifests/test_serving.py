"""The Deployments that serve a release: what they render to; and both CPU servers on a pulled release."""

import importlib.util
import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcuts.components.core import files, pods
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from deepcuts.components.gguf import folders
from deepcuts.components.publish import releases
from deepcuts.components.publish.pull import pull
from deepcuts.components.training import models, scoring
from deepcuts.pipelines import pools
from tests.conftest import ROOT

BASE = ROOT / "pipelines" / "examples" / "base"
SERVERS = ["cpu", "gpu"]
QUESTION = "where is my order"


def rendered(server: str) -> dict[str, dict[str, Any]]:
    """Objects by kind, as ``kubectl apply -k`` would send them."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is missing: nothing here renders a kustomization")
    words = ["kubectl", "kustomize", str(ROOT / "manifests" / "serving" / server)]
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return {value["kind"]: value for value in yaml.safe_load_all(told.stdout)}


@pytest.fixture(params=SERVERS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pod(server: str) -> dict[str, Any]:
    template: dict[str, Any] = rendered(server)["Deployment"]["spec"]["template"]
    return template


def test_server_stands_on_its_pool_and_asks_for_its_accelerator(pool):
    spec, known = pod(pool)["spec"], pools.read()[pool]
    (server,) = spec["containers"]
    assert spec["nodeSelector"] == known.selector
    assert {t["key"] for t in spec.get("tolerations", [])} == {t.key for t in known.tolerations}
    wanted = server["resources"]["limits"].get(known.accelerator) if known.accelerator else None
    assert wanted == (known.accelerator_count if known.accelerator else None)
    assert float(server["resources"]["requests"]["cpu"]) < known.cpu_cores
    assert server["image"].rpartition(":")[2] not in ("", "latest")


def test_pod_is_restricted_and_its_root_is_read_only(pool):
    spec = pod(pool)["spec"]
    own = spec["securityContext"]
    assert own["runAsNonRoot"] is True and own["runAsUser"] == pods.NOBODY
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec["initContainers"], *spec["containers"]]:
        locked = container["securityContext"] | {"seccompProfile": own["seccompProfile"]}
        assert locked == pods.LOCKED
        assert container["resources"]["limits"]["memory"]
    (server,) = spec["containers"]
    assert {m["mountPath"]: m.get("readOnly", False) for m in server["volumeMounts"]}["/models"] is True


def test_release_is_pulled_with_the_flags_and_settings_that_pull_reads(pool):
    (puller,) = pod(pool)["spec"]["initContainers"]
    assert puller["command"] == ["python", "-m", "deepcuts.components.publish.pull"]
    given = dict(word.split("=", 1) for word in puller["args"])
    assert set(given) == {f"--{name}" for name in inspect.signature(pull).parameters}
    env = {entry["name"]: entry["valueFrom"] for entry in puller["env"]}
    keys = {env[name]["secretKeyRef"]["key"]: name for name in env if "secretKeyRef" in env[name]}
    assert keys == pods.SECRET_ENV
    assert {v["secretKeyRef"]["name"] for v in env.values() if "secretKeyRef" in v} == {pods.READER}
    for key, name in pods.SETTINGS_ENV.items():
        assert env[name]["configMapKeyRef"].items() >= {"name": pods.SETTINGS, "key": key}.items()
    chosen = rendered(pool)["ConfigMap"]
    for name in ("STORE", "NAME", "VERSION"):
        assert given[f"--{name.lower()}"] == f"$(RELEASE_{name})"
        source = env[f"RELEASE_{name}"]["configMapKeyRef"]
        assert source["name"] == chosen["metadata"]["name"] and source["key"] in chosen["data"]
    (server,) = pod(pool)["spec"]["containers"]
    assert any(given["--folder"] in word for word in (*server["command"], *server["args"]))


def test_traffic_comes_when_the_model_is_loaded_and_a_rollout_waits_for_it(pool):
    objects = rendered(pool)
    deployment, service = objects["Deployment"]["spec"], objects["Service"]["spec"]
    (server,) = deployment["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/health", "port": 8000}
    loading = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    assert loading <= deployment["progressDeadlineSeconds"]
    assert server["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]  # the old one answers on
    labels = deployment["template"]["metadata"]["labels"]
    assert labels.items() >= service["selector"].items() and service["ports"][0]["port"] == 8000
    assert "--port=8000" in server["args"] and "--host=0.0.0.0" in server["args"]


def test_only_clients_reach_the_server_and_the_pod_is_one_of_ours(pool):
    policy = rendered(pool)["NetworkPolicy"]["spec"]
    labels = pod(pool)["metadata"]["labels"]
    assert labels.items() >= policy["podSelector"]["matchLabels"].items() >= pods.LABELS.items()
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"deepcuts-client": "true"}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_pulled_release_answers_over_http_as_evaluate_decodes(tmp_path, kind):
    needed = {"safetensors": ("fastapi", "uvicorn", "openai"), "gguf": ("xllamacpp", "cyllama")}[kind]
    if any(importlib.util.find_spec(name) is None for name in needed):
        pytest.skip(f"needs {', '.join(needed)}: pip install 'deepcuts[train,serve]'")
    url, model = (tmp_path / "store").as_uri(), BASE
    if kind == "gguf":
        model = folders.write(BASE, models.load_tokenizer(BASE), tmp_path / "gguf", "F16", None)
    releases.release(open_store(url), "support", model, "v1", files.digest(model))
    pull(url, "support", "latest", tmp_path / "release")
    (server,) = pod("cpu")["spec"]["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    argv = [sys.executable, *server["command"][1:], *server["args"]]
    places = {"/models/release": str(tmp_path / "release"), "0.0.0.0": "127.0.0.1", "8000": port}
    for name, place in places.items():
        argv = [word.replace(name, place) for word in argv]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        argv, env=os.environ | {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": path}, cwd=ROOT
    )
    try:
        until_ready(f"http://127.0.0.1:{port}{server['readinessProbe']['httpGet']['path']}", process)
        told = asked(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            {
                "model": str(tmp_path / "release"),
                "messages": [{"role": "user", "content": QUESTION}],
                "max_tokens": 12,
                "temperature": 0,
            },
        )
    finally:
        process.terminate()
        process.wait(30)
    record = Example("q", (Message("user", QUESTION), Message("assistant", "")))
    (wanted,) = scoring.greedy_answers(*models.load_base(BASE), [record], 12)
    assert told["choices"][0]["message"]["content"].strip() == wanted != ""


def until_ready(url: str, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    """Ask until the server says yes, as the kubelet does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert json.load(answer) == {"status": "ok"}
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer within {seconds} s")


def asked(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)
