"""Fixtures that need a server: a MinIO of our own, on a free port."""

import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# on a busy machine an example now and then takes a second that takes 2 ms the next time
settings.register_profile("busy machines", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machines")

ROOT = Path(__file__).parent.parent
CLUSTER = Path(os.environ.get("DEEPCUTS_CLUSTER") or ROOT.parent / "shared" / "cluster")
"""Programs that start test servers: ``minio PORT FOLDER``, and ``up`` for a cluster; else tests skip."""
SHARED = Path(os.environ.get("DEEPCUTS_DATA") or ROOT.parent / "shared" / "data")
"""Public data and models, which tests/public_data.py gets; what needs them is skipped where they are not."""


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a MinIO that lives as long as this session and is used by no other."""
    if not (CLUSTER / "minio").exists():
        pytest.skip(f"no S3 server to test against: {CLUSTER / 'minio'} is missing (DEEPCUTS_CLUSTER)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    try:
        started = subprocess.run(
            [CLUSTER / "minio", port, tmp_path_factory.mktemp("minio")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        yield dict(word.split("=", 1) for word in started.stdout.split() if "=" in word)
    finally:
        subprocess.run([CLUSTER / "minio", "stop", port], check=True)


@pytest.fixture
def s3_url(minio: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in the bucket of ``minio``, with the environment that opens it."""
    for name, value in minio.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_REGION", raising=False)
    return f"s3://{minio['S3_BUCKET']}/{uuid.uuid4().hex}"
