"""What can be said of the manifests without a cluster."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcuts.components.core import nodepools, pods
from deepcuts.components.tune import suggestion
from tests.conftest import ROOT
from tests.manifests.rendering import FOLDERS, rendered

MANIFESTS = ROOT / "manifests"
OBJECTS = [
    (path.relative_to(MANIFESTS).as_posix(), value)
    for path in sorted(MANIFESTS.rglob("*.yaml"))
    if path.name not in ("kustomization.yaml", "nodepools.yaml")
    for value in yaml.safe_load_all(path.read_text())
]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [value for _, value in OBJECTS if value["kind"] == kind]


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("kustomization.yaml")), ids=lambda p: p.parent.name)
def test_kustomization_names_what_is_there_and_leaves_no_file_out(path: Path):
    value = yaml.safe_load(path.read_text())
    named = {(path.parent / entry).resolve() for entry in value["resources"]}
    named |= {
        (path.parent / f).resolve() for g in value.get("configMapGenerator", []) for f in g.get("files", [])
    }
    assert [entry for entry in named if not entry.exists()] == []
    beside = {p.resolve() for p in path.parent.glob("*.yaml")} - {path.resolve()}
    assert beside - named == set()


def test_no_manifest_holds_a_secret():
    assert of_kind("Secret") == []
    for path, value in OBJECTS:
        assert "secretGenerator" not in value, path


def test_no_role_may_do_everything():
    for role in [*of_kind("Role"), *of_kind("ClusterRole")]:
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in words and "secrets" not in words, role["metadata"]["name"]
    (labels,) = of_kind("ClusterRole")  # an option: steps read the pool from their node's labels
    assert labels["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]


def test_network_policies_choose_the_pods_that_placement_labels():
    for policy in of_kind("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() >= pods.LABELS.items()


def volumes_and_containers(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(``emptyDir`` or ``container``, what it holds) at any depth, those of patches too."""
    if isinstance(value, list):
        for item in value:
            yield from volumes_and_containers(item)
    if isinstance(value, dict):
        if "emptyDir" in value:
            yield "emptyDir", value["emptyDir"]
        for key, item in value.items():
            if key in ("containers", "initContainers"):
                yield from (("container", container) for container in item)
            yield from volumes_and_containers(item)


PATCHES = [
    (path.relative_to(MANIFESTS).as_posix(), yaml.safe_load(patch["patch"]))
    for path in sorted(MANIFESTS.rglob("serving/*pu/kustomization.yaml"))
    for patch in yaml.safe_load(path.read_text())["patches"]
]


@pytest.mark.parametrize(
    ("path", "value"), [*OBJECTS, *PATCHES], ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_volume_and_container_has_limits(path, value):
    for kind, found in volumes_and_containers(value):
        if kind == "emptyDir":
            assert found.get("sizeLimit"), path
        elif found.get("image") != "set-by-the-overlay":
            assert found["resources"]["limits"].keys() >= {"cpu", "memory", "ephemeral-storage"}, path
            assert "ephemeral-storage" in found["resources"]["requests"], "else the request is the limit"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_that_a_kustomization_makes_is_bounded_locked_and_of_a_fixed_version(folder):
    made = rendered(folder)
    found = [pod for value in made for pod in pods_in(value)]
    assert len(found) == {"overlays/laptop": 3, "overlays/cloud": 3}.get(folder, 1)
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True and "hostPath" not in str(pod)
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], volume
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            sides = container["resources"]
            assert sides["limits"].keys() >= {"cpu", "memory", "ephemeral-storage"}, container["name"]
            assert sides["requests"].keys() >= {"cpu", "memory", "ephemeral-storage"}, container["name"]
            locked = container["securityContext"]
            assert locked["readOnlyRootFilesystem"] and locked["capabilities"] == {"drop": ["ALL"]}
            assert container["image"].rpartition(":")[2] not in ("", "latest", "set-by-the-overlay")
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes.keys()


def pods_in(value: Any) -> Iterator[dict[str, Any]]:
    """Specs of pods at any depth: of a Job, a CronJob, a Deployment, a TrainingRuntime."""
    if isinstance(value, list):
        for item in value:
            yield from pods_in(item)
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for item in value.values():
            yield from pods_in(item)


@pytest.mark.parametrize("overlay", ["laptop", "cloud"])
def test_a_task_of_kfp_may_fill_as_much_disk_as_a_job(overlay):
    (limits,) = [value for value in rendered(f"overlays/{overlay}") if value["kind"] == "LimitRange"]
    (each,) = limits["spec"]["limits"]
    assert each.keys() == {"type", "default", "defaultRequest"} and each["type"] == "Container"
    assert each["default"].keys() == each["defaultRequest"].keys() == {"ephemeral-storage"}, "nothing dear"
    gib = int(each["default"]["ephemeral-storage"].removesuffix("Gi"))
    assert f"{2 * gib}Gi" == pods.DISK["limits"]["ephemeral-storage"], "a task has main and Argo's wait"
    assert gib >= int(pods.SCRATCH_LIMIT.removesuffix("Gi"))


def test_servers_of_releases_know_no_key_but_the_readers():
    for folder in ("cpu", "gpu", "base"):
        for path in (MANIFESTS / "serving" / folder).glob("*.yaml"):
            assert pods.SECRET not in path.read_text(), path


def test_a_drain_leaves_servers_of_releases_but_one():
    (budget,) = of_kind("PodDisruptionBudget")
    (server,) = [d for d in of_kind("Deployment") if d["metadata"]["name"] == "deepcuts-serving"]
    assert budget["spec"]["selector"] == server["spec"]["selector"]
    assert budget["spec"]["maxUnavailable"] == 1


def test_store_settings_have_the_keys_that_placement_reads():
    for overlay in ("laptop", "cloud"):
        value = yaml.safe_load((MANIFESTS / "overlays" / overlay / "kustomization.yaml").read_text())
        (settings,) = [g for g in value["configMapGenerator"] if g["name"] == pods.SETTINGS]
        assert {word.partition("=")[0] for word in settings["literals"]} == set(pods.SETTINGS_ENV)


def test_laptop_uses_the_store_of_kubeflow_pipelines():
    value = yaml.safe_load((MANIFESTS / "overlays" / "laptop" / "kustomization.yaml").read_text())
    (settings,) = [g for g in value["configMapGenerator"] if g["name"] == pods.SETTINGS]
    assert "endpoint=http://minio-service:9000" in settings["literals"]
    assert value["resources"] == ["../../base", "egress.yaml"]


def test_deploy_gives_every_container_the_images_that_were_built(tmp_path):
    (tmp_path / "kubectl").write_text(
        '#!/bin/sh\ncase "$1" in\nkustomize) cat "$2"/../../base/*.yaml;; *) cat;; esac\n'
    )
    (tmp_path / "kubectl").chmod(0o755)
    told = subprocess.run(
        ["make", "-s", "deploy", "OVERLAY=laptop", "REGISTRY=there/mine", "TAG=v7"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    images = re.findall(r"image: *(\S+)", told.stdout)
    assert len(images) > 10 and all(re.fullmatch(r"there/mine/[a-z]+:v7", image) for image in images)


def test_kueue_flavors_are_the_node_pools():
    pools = nodepools.read(MANIFESTS / "base" / "nodepools.yaml")
    flavors = {flavor["metadata"]["name"]: flavor["spec"] for flavor in of_kind("ResourceFlavor")}
    assert set(flavors) == set(pools)
    for name, flavor in flavors.items():
        assert flavor["nodeLabels"] == pools[name].selector
        assert {taint["key"] for taint in flavor.get("nodeTaints", [])} == {
            t.key for t in pools[name].tolerations
        }


def test_laptop_pools_have_the_names_that_pipelines_ask_for():
    shipped = nodepools.read(MANIFESTS / "base" / "nodepools.yaml")
    laptop = nodepools.read(MANIFESTS / "overlays" / "laptop" / "nodepools.yaml")
    assert laptop.keys() == shipped.keys()
    assert not any(pool.accelerator for pool in laptop.values())


def test_training_on_several_nodes_may_start_follow_and_delete_its_own_kind_and_no_overlay_needs_trainer():
    (role,) = [value for value in rendered("trainer") if value["kind"] == "Role"]
    may = {kind: set(rule["verbs"]) for rule in role["rules"] for kind in rule["resources"]}
    assert may == {
        "trainjobs": {"create", "get", "delete"},
        "pods": {"get", "list"},
        "pods/log": {"get"},
    }
    for overlay in ("laptop", "cloud"):
        assert "trainer.kubeflow.org" not in {
            value["apiVersion"].partition("/")[0] for value in rendered(f"overlays/{overlay}")
        }


def katib() -> dict[str, dict[str, Any]]:
    return {value["kind"]: value for path, value in OBJECTS if path.startswith("katib/")}


def test_katibs_entry_of_asha_starts_our_service_with_enough_memory_and_a_quick_probe():
    entry = yaml.safe_load(katib()["ConfigMap"]["data"]["suggestion.yaml"])
    assert entry["algorithmName"] == "asha" and entry["command"] == [
        "python",
        "-m",
        "deepcuts.components.tune.suggestion",
    ]
    assert entry["readinessProbe"]["grpc"]["port"] == suggestion.PORT
    assert entry["readinessProbe"]["initialDelaySeconds"] == 1  # Katib's default waits 10 s
    assert entry["resources"]["limits"]["memory"] == "256Mi"  # Katib's default of 100 MiB is too little
    assert "ports" not in entry  # Katib declares the port itself, and refuses a second


def test_registration_may_touch_katibs_config_only_and_runs_locked_down():
    (rule,) = katib()["Role"]["rules"]
    assert rule == {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["katib-config"],
        "verbs": ["get", "update"],
    }
    pod = katib()["Job"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["securityContext"] == pods.LOCKED
    assert pod["securityContext"]["runAsNonRoot"] and pod["serviceAccountName"] == "deepcuts-register"
