"""A release in service on a real cluster: pulled, verified, answering behind its Service, rolled over."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from deepcuts.components.core import files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from deepcuts.components.gguf import folders
from deepcuts.components.gguf import scoring as gguf_scoring
from deepcuts.components.gguf.engine import LlamaCpp
from deepcuts.components.publish import releases
from deepcuts.components.training import models, scoring
from tests.cluster.conftest import Kubectl
from tests.conftest import ROOT
from tests.manifests.test_serving import BASE, QUESTION, asked

pytestmark = pytest.mark.cluster
TOKENS = 12


def objects(kubectl: Kubectl, namespace: str, tag: str, store: str) -> list[dict[str, Any]]:
    """What ``apply -k manifests/serving/cpu`` sends, in this namespace and as small as this machine."""
    found = list(yaml.safe_load_all(kubectl("kustomize", str(ROOT / "manifests" / "serving" / "cpu"))))
    for value in found:
        value["metadata"]["namespace"] = namespace
        if value["kind"] == "ConfigMap":
            value["data"]["store"] = store
        if value["kind"] == "Deployment":
            spec = value["spec"]["template"]["spec"]
            for container in [*spec["initContainers"], *spec["containers"]]:
                container["image"] = container["image"].rpartition(":")[0] + f":{tag}"
            spec["containers"][0]["resources"] = {"requests": {"cpu": "100m"}, "limits": {"memory": "4Gi"}}
    return found


def answered(kubectl: Kubectl, namespace: str) -> str:
    """What the server behind the Service says; Services answer on this machine, too."""
    address = kubectl(
        "-n", namespace, "get", "service", "deepcuts-serving", "-o", "jsonpath={.spec.clusterIP}"
    )
    body = {
        "model": "/models/release",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    told = asked(f"http://{address}:8000/v1/chat/completions", body)
    return str(told["choices"][0]["message"]["content"]).strip()


def decoded(folder: Path, kind: str) -> str:
    """The greedy answer as evaluate decodes it, with the engine that scores such a release."""
    record = Example("q", (Message("user", QUESTION), Message("assistant", "")))
    if kind == "gguf":
        said = gguf_scoring.greedy_answers(LlamaCpp(folder), models.load_tokenizer(folder), [record], TOKENS)
    else:
        said = scoring.greedy_answers(*models.load_base(folder), [record], TOKENS)
    return said[0].strip()


def other_model(folder: Path) -> Path:
    """The base with its last block's output turned off."""
    shutil.copytree(BASE, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    last = max(name for name in weights if name.endswith("mlp.down_proj.weight"))
    save_file(weights | {last: torch.zeros_like(weights[last])}, path, {"format": "pt"})
    return folder


def restarted(kubectl: Kubectl, namespace: str, seconds: int) -> None:
    """The way to a new release, as the manifest says; raises when it is not ready in time."""
    kubectl("-n", namespace, "rollout", "restart", "deployment/deepcuts-serving")
    kubectl("-n", namespace, "rollout", "status", "deployment/deepcuts-serving", f"--timeout={seconds}s")


@contextmanager
def asking(kubectl: Kubectl, namespace: str) -> Iterator[list[str]]:
    """Ask without a pause while the block runs; yields the answers so far. A refused question raises."""
    answers: list[str] = []
    refused: list[OSError] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(answered(kubectl, namespace))
            except OSError as error:
                refused.append(error)

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield answers
    finally:
        over.set()
        client.join()
    assert not refused, (len(refused), len(answers), refused[0])


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_release_is_served_a_new_one_takes_over_and_a_damaged_one_does_not(
    kubectl, namespace, store, tag, tmp_path, kind
):
    shelf, base, other = open_store(f"{store}/{kind}"), BASE, other_model(tmp_path / "other")
    if kind == "gguf":
        base, other = (
            folders.write(model, models.load_tokenizer(model), tmp_path / f"gguf-{name}", "F16", None)
            for name, model in {"base": base, "other": other}.items()
        )
    old, new = decoded(base, kind), decoded(other, kind)
    assert "" != old != new
    releases.release(shelf, "model", base, "v1", files.digest(base))
    before = ["delete", "deployment", "deepcuts-serving", "--ignore-not-found", "--cascade=foreground"]
    kubectl("-n", namespace, *before)  # of the other kind, with its damaged release
    for value in objects(kubectl, namespace, tag, f"{store}/{kind}"):
        kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(value))
    kubectl("-n", namespace, "rollout", "status", "deployment/deepcuts-serving", "--timeout=400s")
    assert answered(kubectl, namespace) == old

    releases.release(shelf, "model", other, "v2", files.digest(other))
    with asking(kubectl, namespace) as answers:
        restarted(kubectl, namespace, 400)
        end = time.monotonic() + 60  # the old one answers until no node knows it any more
        while answers[-1:] != [new] and time.monotonic() < end:
            time.sleep(0.2)
    assert len(answers) > 10 and answers[-1] == new
    assert set(answers) == {old, new}

    releases.release(shelf, "model", base, "v3", files.digest(base))
    damaged = "releases/model/v3/config.json"
    shelf.put_bytes(damaged, shelf.get_bytes(damaged)[:-1])
    with pytest.raises(AssertionError, match="timed out"):
        restarted(kubectl, namespace, 40)
    assert answered(kubectl, namespace) == new
    pods = json.loads(kubectl("-n", namespace, "get", "pods", "-l", "app=deepcuts-serving", "-o", "json"))
    logs = [kubectl("-n", namespace, "logs", pod["metadata"]["name"], "-c", "pull") for pod in pods["items"]]
    assert any("config.json" in log for log in logs), logs
