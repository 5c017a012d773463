"""The CPU server where its parts are missing: each has its own fix."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepcuts.components.gguf import convert
from tests.conftest import ROOT


def served(folder: Path, first_on_path: Path) -> str:
    """Return what the server says as it ends."""
    argv = [sys.executable, "-m", "deepcuts.components.publish.serve", f"--folder={folder}"]
    argv += ["--host=127.0.0.1", "--port=0", "--threads=1"]
    env = os.environ | {"PYTHONPATH": f"{first_on_path}:{ROOT}"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    ("package", "fix"),
    [
        (None, 'no llama.cpp server here: pip install "deepcuts[serve]"'),
        (
            'raise ImportError("libgomp.so.1: cannot open shared object file")',
            "does not load (libgomp.so.1: cannot open shared object file): apt-get install libgomp1",
        ),
    ],
)
def test_a_server_that_is_missing_or_does_not_load_is_said_with_its_fix(tmp_path, package, fix):
    release = tmp_path / "release"
    release.mkdir()
    # the header of a file without tensors, which is all that is looked at before the server starts
    release.joinpath(convert.FILE).write_bytes(convert.MAGIC + (3).to_bytes(4, "little") + bytes(16))
    code = package or 'raise ModuleNotFoundError("No module named xllamacpp", name="xllamacpp")'
    (tmp_path / "xllamacpp.py").write_text(code)
    assert fix in served(release, tmp_path)
