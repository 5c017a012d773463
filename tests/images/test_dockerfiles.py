"""What the Dockerfiles promise; that they build and run is the cluster tests' to show."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_contract import declared, extras_of, normal

IMAGES = ["data", "ops", "serve", "train"]
DEPENDENCIES, CODE = "--requirement requirements.txt", "COPY components deepcuts/components"


def dockerfile(image: str) -> str:
    return (ROOT / "images" / image / "Dockerfile").read_text()


def told(*extras: str) -> list[str]:
    words = [sys.executable, "images/requirements.py", *extras]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("image", IMAGES)
def test_image_installs_the_dependencies_of_its_extra_pinned_and_before_the_code(image):
    extras = extras_of(image)
    names = {normal(re.split(r"[=<>[]", line)[0]) for line in told(*extras)}
    assert names == declared(*extras) and not {"kfp", "kfp-kubernetes"} & names
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
    assert "FROM ${PYTHON_IMAGE}" in lines and "ARG PYTHON_IMAGE=python:3.11-slim" in lines
    assert "USER 65532:65532" in lines and "VOLUME /scratch" in lines
    (env,) = [block for block in dockerfile(image).split("\n\n") if "ENV HOME" in block]
    assert "HOME=/scratch " in env and "TMPDIR=/scratch " in env and "HF_HOME=/scratch/" in env
    assert "org.opencontainers.image.licenses" in dockerfile(image)


@pytest.mark.parametrize("image", IMAGES)
def test_pip_is_the_pinned_one_before_it_installs_anything_and_builds_with_pinned_tools(image):
    lines = dockerfile(image).replace("\\\n", " ").splitlines()
    installs = [
        part for line in lines if line.startswith("RUN") for part in line.split("&&") if "install " in part
    ]
    installs = [part for part in installs if " pip install" in f" {part}" or "|| pip install" in part]
    assert installs[0].rstrip().endswith("--constraint constraints.txt --upgrade pip")
    assert lines.index("ARG PIP_BUILD_CONSTRAINT=constraints.txt") > lines.index("FROM ${PYTHON_IMAGE}")


@pytest.mark.parametrize("image", IMAGES)
def test_base_images_own_tools_do_not_stay(image):
    """python:3.11-slim brings setuptools 65.5 (CVE-2025-47273) and wheel; PyTorch upgrades the former."""
    (gone,) = [line for line in dockerfile(image).splitlines() if "pip uninstall --yes" in line]
    keeps = "torch" in {line.split(">")[0] for line in told(image)}
    assert gone.split("--yes ")[1].split() == ["setuptools"] * (not keeps) + ["wheel", "pip"]


def test_what_builds_is_pinned_above_the_versions_with_known_holes():
    """pip: CVE-2025-8869 (25.3), CVE-2026-1703 (26.0); setuptools: CVE-2025-47273 (78.1.1)."""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    for name, floor in {"pip": (26, 0), "setuptools": (78, 1, 1)}.items():
        assert tuple(int(part) for part in pins[name].split(".")) >= floor, name
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {normal(word.split(">")[0]) for word in required} <= pins.keys()
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert lines and all("--constraint constraints.txt" in line for line in lines)
    assert any("PIP_BUILD_CONSTRAINT=constraints.txt" in line for line in lines if "--editable" in line)


def test_build_context_has_no_face_of_a_component_and_no_environment():
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"*", "**/component.py", "components/core/container.py"} <= set(kept)
    allowed = {Path(line[1:]) for line in kept if line.startswith("!")}
    assert all((ROOT / path).exists() for path in allowed)


def test_only_the_cuda_build_of_train_gets_what_needs_cuda():
    (line,) = [line for line in dockerfile("train").splitlines() if "cuda.txt" in line and "pip" in line]
    assert line.startswith('RUN test -n "$TORCH_INDEX" || pip install') and "--requirement cuda.txt" in line
    cuda = " ".join(told("cuda"))
    assert "bitsandbytes" in cuda and "liger-kernel" in cuda


def test_the_server_of_gguf_is_loaded_where_it_is_installed():
    """xllamacpp finds OpenMP's library on a desktop, not in a slim image."""
    (line,) = [line for line in dockerfile("serve").replace("\\\n", " ").splitlines() if "libgomp1" in line]
    assert line.startswith("RUN apt-get update") and line.endswith('python -c "import xllamacpp"')
    assert dockerfile("serve").index(DEPENDENCIES) < dockerfile("serve").index("libgomp1")
