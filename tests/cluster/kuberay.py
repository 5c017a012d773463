"""KubeRay's own operator, as a process of this machine, on the test cluster.

``DEEPCUTS_KUBERAY`` is a clone of ray-project/kuberay, for its CRDs, and ``DEEPCUTS_KUBERAY_OPERATOR`` its
operator, built there: ``cd ray-operator && CGO_ENABLED=0 go build -o OPERATOR .``
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.conftest import Kubectl

KINDS = ("rayclusters", "rayjobs", "rayservices", "raycronjobs")
CRDS = tuple(f"{kind}.ray.io" for kind in KINDS)


def definitions() -> str:
    """Its CRDs."""
    if not (clone := os.environ.get("DEEPCUTS_KUBERAY")):
        pytest.skip("no CRDs of KubeRay: DEEPCUTS_KUBERAY names no clone of it")
    ref = os.environ.get("DEEPCUTS_KUBERAY_REF", "HEAD")
    files = (f"{ref}:ray-operator/config/crd/bases/ray.io_{kind}.yaml" for kind in KINDS)
    shown = [
        subprocess.run(["git", "-C", clone, "show", one], capture_output=True, text=True, check=True).stdout
        for one in files
    ]
    return "---\n".join(shown)


@contextmanager
def operator(kubectl: Kubectl, namespace: str, log: Path) -> Iterator[None]:
    """Install KubeRay; its operator looks after one namespace and reaches pods through the API server."""
    program = os.environ.get("DEEPCUTS_KUBERAY_OPERATOR")
    if not program:
        pytest.skip("no operator of KubeRay: DEEPCUTS_KUBERAY_OPERATOR names no program")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=definitions())
    kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in CRDS))
    command = [program, f"--watch-namespace={namespace}", "--use-kubernetes-proxy"]
    command += ["--enable-leader-election=false", "--metrics-addr=0", "--health-probe-bind-address=0"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield
            assert process.poll() is None, log.read_text()[-2000:]
        finally:
            process.terminate()
            process.wait()
            kubectl("delete", "crd", *CRDS, "--wait=false")
