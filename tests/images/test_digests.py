"""``make digests``: the images of a kustomization by digest, and what refuses to be one."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

NAMES = ["data", "train", "serve", "ops"]
FOLDERS = ["overlays/laptop", "serving/cpu", "serving/gpu", "katib"]
DIGESTS = {name: "sha256:" + str(number) * 64 for number, name in enumerate(NAMES, start=1)}
REGISTRY = "registry.example:5000/me"
GIVEN = ",".join(f"{name}={digest}" for name, digest in DIGESTS.items())
ENGINE = """#!/bin/sh
for last; do :; done
name=${last%:v7}; name=${name##*/}
test "$name" = "$MISSING" && { echo 'No such image' >&2; exit 1; }
case $name in data) n=1;; train) n=2;; serve) n=3;; ops) n=4;; esac
d=$(printf "$n%.0s" $(seq 64))
other=other.example/$name@sha256:$(printf 0%.0s $(seq 64))
echo "[\\"$other\\",\\"registry.example:5000/me/$name@sha256:$d\\"]"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What ``make`` needs of this repository, to be written to."""
    for name in ("Makefile", "manifests", "images"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(clone: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = ["make", "-s", *words, "OVERLAY=laptop", f"REGISTRY={REGISTRY}"]
    return subprocess.run(argv, cwd=clone, env=os.environ | env, capture_output=True, text=True)


def images(clone: Path, folder: str) -> set[str]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is missing: nothing here renders a kustomization")
    words = ["kubectl", "kustomize", str(clone / "manifests" / folder)]
    found: set[str] = set()

    def walk(value: Any) -> None:
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else []:
            walk(item)
        if isinstance(value, dict) and isinstance(value.get("image"), str):
            found.add(value["image"])
        if isinstance(value, dict) and value.get("name") == "IMAGE":
            found.add(value["value"])

    for value in yaml.safe_load_all(subprocess.run(words, capture_output=True, text=True, check=True).stdout):
        walk(value)
    return found


def test_every_image_that_is_rendered_is_named_by_the_digest_that_was_given(clone):
    done = make(clone, "digests", "TAG=v7", DEEPCUTS_DIGESTS=GIVEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"export DEEPCUTS_DIGESTS={GIVEN}\n"
    for folder in FOLDERS:
        ours = {image for image in images(clone, folder) if not image.startswith("vllm/")}
        names = {image.rpartition("/")[2].partition(":")[0] for image in ours}
        assert names and ours == {f"{REGISTRY}/{name}:v7@{DIGESTS[name]}" for name in names}, folder


def test_digests_are_the_registrys_as_the_engine_was_told_them(clone):
    (clone / "engine").write_text(ENGINE)
    (clone / "engine").chmod(0o755)
    done = make(clone, "digests", "TAG=v7", f"ENGINE={clone}/engine", DEEPCUTS_DIGESTS="")
    assert (done.returncode, done.stdout) == (0, f"export DEEPCUTS_DIGESTS={GIVEN}\n"), done.stderr
    before = (clone / "manifests/katib/kustomization.yaml").read_text()
    done = make(clone, "digests", "TAG=v7", f"ENGINE={clone}/engine", DEEPCUTS_DIGESTS="", MISSING="serve")
    assert done.returncode != 0 and f"no digest of {REGISTRY}/serve:v7: push it first" in done.stderr
    assert (clone / "manifests/katib/kustomization.yaml").read_text() == before


@pytest.mark.parametrize("wrong", ["train=sha256:12", GIVEN.replace("serve", "server"), GIVEN.upper()])
def test_what_is_no_digest_is_refused_before_anything_is_written(clone, wrong):
    done = make(clone, "digests", "TAG=v7", DEEPCUTS_DIGESTS=wrong)
    assert done.returncode != 0 and "=sha256:…" in done.stderr
    assert "digest:" not in (clone / "manifests/overlays/laptop/kustomization.yaml").read_text()


def test_pinning_again_replaces_and_leaves_other_images_and_settings(clone):
    path = clone / "manifests/serving/gpu/kustomization.yaml"
    path.write_text(path.read_text() + "images:\n- name: vllm/vllm-openai\n  newTag: mine\nnamePrefix: x-\n")
    before = yaml.safe_load(path.read_text())
    for tag in ("v6", "v7"):
        assert make(clone, "digests", f"TAG={tag}", DEEPCUTS_DIGESTS=GIVEN).returncode == 0
    after = yaml.safe_load(path.read_text())
    theirs, *ours = after.pop("images")
    assert [theirs] == before.pop("images") and after == before
    assert [entry["newTag"] for entry in ours] == ["v7"] * 4


def test_deploy_refuses_digests_of_another_tag(clone):
    real = shutil.which("kubectl") or pytest.skip("kubectl is missing: nothing here renders a kustomization")
    (clone / "bin").mkdir()
    (clone / "bin" / "kubectl").write_text(f'#!/bin/sh\ntest "$1" = apply && exec cat\nexec {real} "$@"\n')
    (clone / "bin" / "kubectl").chmod(0o755)
    path = f"{clone}/bin:{os.environ['PATH']}"
    assert make(clone, "digests", "TAG=v7", DEEPCUTS_DIGESTS=GIVEN).returncode == 0
    done = make(clone, "deploy", "TAG=v7", PATH=path)
    applied = [v for v in yaml.safe_load_all(done.stdout) if v["kind"] == "CronJob"]
    assert len(applied) == 3 and json.dumps(applied).count("@sha256:") > 10
    done = make(clone, "deploy", "TAG=v8", PATH=path)
    assert (done.returncode, done.stdout) == (2, "") and ":v7@sha256" in done.stderr
