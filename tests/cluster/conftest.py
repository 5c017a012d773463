"""A test cluster (``tests.conftest.CLUSTER``) with our images; each module has a separate namespace."""

import functools
import hashlib
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config

from deepcuts.components.core import pods
from tests.cluster.crds import KINDS, definition
from tests.conftest import CLUSTER, ROOT

IMAGES = {
    "data": ["cpu-0"],
    "ops": ["cpu-0", "gpu-0"],
    "train": ["cpu-0", "gpu-0", "spot-0"],
    "serve": ["cpu-0"],
}
"""Nodes that need each image; unpacked, train takes 5 GB on each."""
STORE = {"S3_ENDPOINT": "http://127.0.0.1:9000", "AWS_REGION": "us-east-1"}
KEYS = {"accesskey": "minio", "secretkey": "minio123"}
"""Of the test cluster's MinIO (its README)."""
RUNNER = "pipeline-runner"
"""KFP's account of every step."""
Kubectl = Callable[..., str]
Json = dict[str, Any]


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """``kubectl`` on the running cluster; its output, or CalledProcessError."""
    if not (CLUSTER / "up").exists():
        pytest.skip(f"no cluster to test on: {CLUSTER / 'up'} is missing (DEEPCUTS_CLUSTER)")
    if os.geteuid() != 0:
        pytest.skip("the cluster needs root")
    told = subprocess.run([CLUSTER / "up"], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"export KUBECONFIG=(\S+) PATH=([^:\s]+):", told)
    assert found, told
    os.environ["KUBECONFIG"] = found[1]
    config.load_kube_config(found[1])

    def call(*words: str, text: str | None = None) -> str:
        done = subprocess.run([f"{found[2]}/kubectl", *words], input=text, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout + done.stderr

    return call


@pytest.fixture(scope="session")
def tag(kubectl: Kubectl) -> str:
    """Tag of our images on the nodes that need them: DEEPCUTS_TAG as it is, else built from the working tree.

    The tag names what is in them, so that what has not changed is neither built nor loaded again.
    """
    if given := os.environ.get("DEEPCUTS_TAG"):
        return given
    sources = [ROOT / "pyproject.toml", ROOT / "constraints.txt", *(ROOT / "images").rglob("*")]
    sources += (ROOT / "components").rglob("*.[pj][yi]*")
    total = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources) if path.is_file()))
    tag = total.hexdigest()[:12]
    for name, nodes in IMAGES.items():
        image = f"localhost/deepcuts/{name}:{tag}"
        if all(image in kubectl("get", "node", node, "-o", "jsonpath={.status.images}") for node in nodes):
            continue
        dockerfile = ROOT / "images" / name / "Dockerfile"
        build = [CLUSTER / "image", image, "--from-dockerfile", dockerfile, "--context", ROOT, "--no-load"]
        told = subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True).stdout
        archive = Path(told.splitlines()[-1].split()[1])
        subprocess.run([CLUSTER / "load", archive, *nodes], check=True)
        archive.unlink()  # train's and serve's are 5 GB
    return tag


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace that admits only ``restricted`` pods, with what KFP and our manifests bring along."""
    name = f"test-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    secrets = [f"--from-literal={key}={value}" for key, value in KEYS.items()]
    for secret in (pods.SECRET, pods.READER):
        kubectl("-n", name, "create", "secret", "generic", secret, *secrets)
    endpoint = "--from-literal=endpoint=http://minio.kubeflow:9000"
    kubectl("-n", name, "create", "configmap", "deepcuts-store", endpoint, "--from-literal=region=us-east-1")
    kubectl("-n", name, "create", "serviceaccount", RUNNER)
    kubectl("-n", name, "apply", "-f", str(ROOT / "manifests" / "base" / "access.yaml"))
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def here(kubectl: Kubectl, namespace: str) -> Kubectl:
    """``kubectl`` in the namespace."""
    return functools.partial(kubectl, "-n", namespace)


def ended(kubectl: Kubectl, namespace: str, title: str, seconds: float = 400) -> tuple[str, Json]:
    """(Complete or Failed, the Job), also of one that another Job will make."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = kubectl("-n", namespace, "get", "job", title, "--ignore-not-found", "-o", "json")
        job: Json = json.loads(found or "{}")
        for condition in job.get("status", {}).get("conditions", []):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return condition["type"], job
        time.sleep(0.5)
    raise TimeoutError(kubectl("-n", namespace, "describe", "jobs,pods"))


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A fresh prefix in the cluster's MinIO, reachable from here too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in STORE.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", KEYS["accesskey"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["secretkey"])
        yield f"minio://mlpipeline/test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def crds(kubectl: Kubectl) -> Iterator[None]:
    """The API server knows Katib's objects."""
    names = [f"{kind.lower()}s.kubeflow.org" for kind in KINDS]
    kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(map(definition, KINDS)))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names))
    yield
    kubectl("delete", "crd", *names, "--wait=false")
