"""What the Dockerfiles promise; that they build and run is the cluster tests' to show."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_contract import declared, normal

IMAGES = ["data", "ops", "serve", "train"]
DEPENDENCIES, CODE = "--requirement requirements.txt", "COPY components components"


def dockerfile(image: str) -> str:
    return (ROOT / "images" / image / "Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_image_installs_the_dependencies_of_its_extra_pinned_and_before_the_code(image):
    words = [sys.executable, "images/requirements.py", image]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {normal(line.split("=")[0].split(">")[0].split("<")[0]) for line in told.splitlines()}
    assert names == declared(image) and not {"kfp", "kfp-kubernetes"} & names
    text = dockerfile(image)
    assert f"requirements.py {image} " in text
    assert text.index(DEPENDENCIES) < text.index(CODE)
    for line in text.replace("\\\n", " ").splitlines():
        assert "pip install" not in line or "--constraint constraints.txt" in line


def test_train_and_serve_share_the_layer_of_torch():
    train, serve = (dockerfile(image).splitlines() for image in ("train", "serve"))
    (end,) = [number for number, line in enumerate(train) if line.endswith(" torch")]
    assert train[1 : end + 1] == serve[1 : end + 1]
    copied = [line for line in train[:end] if line.startswith("COPY")]
    assert copied == ["COPY constraints.txt ./"]  # what else changes makes no new layer of 5 GB


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_as_a_number_and_writes_to_one_volume(image):
    lines = dockerfile(image).splitlines()
    assert "FROM python:3.11-slim" in lines and "USER 65532:65532" in lines and "VOLUME /scratch" in lines
    (env,) = [block for block in dockerfile(image).split("\n\n") if "ENV HOME" in block]
    assert "HOME=/scratch " in env and "TMPDIR=/scratch " in env and "HF_HOME=/scratch/" in env
    assert "org.opencontainers.image.licenses" in dockerfile(image)


def test_build_context_has_no_face_of_a_component_and_no_environment():
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"*", "**/component.py", "components/core/container.py"} <= set(kept)
    allowed = {Path(line[1:]) for line in kept if line.startswith("!")}
    assert all((ROOT / path).exists() for path in allowed)


def test_only_the_cuda_build_of_train_gets_what_needs_cuda():
    (line,) = [line for line in dockerfile("train").splitlines() if "cuda.txt" in line and "pip" in line]
    assert line.startswith('RUN test -n "$TORCH_INDEX" || pip install') and "--requirement cuda.txt" in line
    words = [sys.executable, "images/requirements.py", "cuda"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "bitsandbytes" in told and "liger-kernel" in told
