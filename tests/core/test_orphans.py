"""A child ends with its parent."""

import os
import select
import subprocess
import sys

import pytest

PARENT = """
import subprocess, sys, time
from deepcuts.components.core.orphans import end_with_parent
child = [sys.executable, "-c", "import time; print('x', end='', flush=True); time.sleep(600)"]
subprocess.Popen(child, preexec_fn=end_with_parent)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends children with their parent, others do not")
def test_a_child_ends_with_a_killed_parent():
    read, write = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=write)
    os.close(write)
    assert os.read(read, 100) == b"x"
    parent.kill()
    parent.wait()
    assert (
        select.select([read], [], [], 60)[0] and os.read(read, 100) == b""
    )  # the pipe closes with the child
