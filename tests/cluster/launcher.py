"""Plays KFP's launcher in a step's pod: inputs from the store, the step's own command, outputs after success.

``python launcher.py '{"inputs": [URI, …], "outputs": [URI, …]}' COMMAND…``; ``minio://BUCKET/KEY`` lies at
``/minio/BUCKET/KEY``. Runs inside the image, with nothing but what the image has.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from components.core.store import open_store


def local(uri: str) -> Path:
    return Path("/minio") / uri.removeprefix("minio://")


def download(uri: str) -> None:
    """A file, or a folder; nothing where there is nothing, as KFP's launcher does."""
    bucket, _, key = uri.removeprefix("minio://").partition("/")
    store = open_store(f"minio://{bucket}")
    for name in [key] if store.exists(key) else store.list(f"{key}/"):
        store.get(name, Path("/minio") / bucket / name)


def upload(uri: str) -> None:
    bucket = uri.removeprefix("minio://").partition("/")[0]
    store, path = open_store(f"minio://{bucket}"), local(uri)
    for name in path.rglob("*") if path.is_dir() else [path]:
        if name.is_file():
            store.put(name.relative_to(Path("/minio") / bucket).as_posix(), name)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # KFP's dies at once, and its step with it
    artifacts = json.loads(sys.argv[1])
    for artifact in artifacts["inputs"]:
        download(artifact)
    for artifact in artifacts["outputs"]:
        local(artifact).parent.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(sys.argv[2:]).returncode
    if code == 0:
        for artifact in artifacts["outputs"]:
            upload(artifact)
    sys.exit(code if code >= 0 else 128 - code)
