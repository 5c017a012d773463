"""The manifests against a real API server."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import RUNNER, Kubectl, kubectl, tag  # noqa: F401  (fixtures)
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster
OVERLAYS = ROOT / "manifests" / "overlays"


@pytest.fixture
def own_namespace(kubectl: Kubectl, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    """An empty namespace that admits only restricted pods."""
    name = f"test-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def moved(overlay: str, namespace: str, tmp_path: Path, data_tag: str = "dev") -> Path:
    """An overlay in another namespace, with the images that the test cluster has."""
    folder = tmp_path / "kustomize"
    folder.mkdir()
    value = {
        "resources": [os.path.relpath(OVERLAYS / overlay, folder)],
        "namespace": namespace,
        "images": [
            {"name": "localhost/deepcuts/data", "newTag": data_tag},
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(value))
    return folder


@pytest.mark.parametrize("overlay", ["laptop", "cloud"])
def test_overlay_passes_the_api_servers_dry_run(kubectl, overlay):  # noqa: F811
    told = kubectl("apply", "--dry-run=server", "-k", str(OVERLAYS / overlay))
    assert "Warning" not in told and told.count("(server dry run)") >= 9


def test_laptop_retrains_on_the_node_it_has(kubectl):  # noqa: F811
    found = list(yaml.safe_load_all(kubectl("kustomize", str(OVERLAYS / "laptop"))))
    templates = [value["spec"]["jobTemplate"] for value in found if value["kind"] == "CronJob"]
    assert len(templates) == 3 and "nvidia.com/gpu" not in json.dumps(templates)
    selectors = [template["spec"]["template"]["spec"]["nodeSelector"] for template in templates]
    assert selectors == [{"kubernetes.io/os": "linux"}] * 3


@pytest.mark.parametrize("server", ["cpu", "gpu"])
def test_serving_passes_the_api_servers_dry_run_without_a_warning_of_restricted(
    kubectl,  # noqa: F811
    own_namespace,
    tmp_path,
    server,
):
    kubectl("label", "namespace", own_namespace, "pod-security.kubernetes.io/warn=restricted")
    served = os.path.relpath(ROOT / "manifests" / "serving" / server, tmp_path)
    value = {"resources": [served], "namespace": own_namespace}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(value))
    told = kubectl("apply", "--dry-run=server", "-k", str(tmp_path))
    assert "Warning" not in told and told.count("(server dry run)") == 4


@pytest.mark.parametrize("overlay", ["laptop", "cloud"])
def test_overlay_applied_twice_changes_nothing(kubectl, own_namespace, tmp_path, overlay):  # noqa: F811
    folder = str(moved(overlay, own_namespace, tmp_path))
    kubectl("apply", "-k", folder)
    again = kubectl("apply", "-k", folder).splitlines()
    assert [line for line in again if not line.endswith("unchanged")] == []
