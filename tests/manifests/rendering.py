"""Manifests as ``kubectl apply -k`` would send them."""

import shutil
import subprocess
from functools import cache
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDERS = ["overlays/laptop", "overlays/cloud", "serving/cpu", "serving/gpu", "katib", "trainer"]


@cache
def rendered(folder: str) -> list[dict[str, Any]]:
    """Return the objects of a folder of ``manifests/``."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is missing: nothing here renders a kustomization")
    words = ["kubectl", "kustomize", str(ROOT / "manifests" / folder)]
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return list(yaml.safe_load_all(told.stdout))
