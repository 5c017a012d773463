"""Every image builds from its Dockerfile, pip included; 30 GB of disk and half an hour."""

import os
import subprocess

import pytest

from tests.cluster.conftest import IMAGES
from tests.conftest import CLUSTER, ROOT

pytestmark = pytest.mark.cluster


@pytest.mark.skipif(not os.environ.get("DEEPCUTS_BUILD"), reason="DEEPCUTS_BUILD=1 builds: it needs 30 GB")
@pytest.mark.parametrize("name", IMAGES)
def test_image_builds(name: str) -> None:
    dockerfile = ROOT / "images" / name / "Dockerfile"
    words = [
        f"localhost/deepcuts/{name}:built",
        "--from-dockerfile",
        dockerfile,
        "--context",
        ROOT,
        "--no-load",
    ]
    subprocess.run([CLUSTER / "image", *words], check=True)
