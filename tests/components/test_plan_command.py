"""``deepcuts plan``: the bundled example, before anything is bought."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "pipelines" / "examples" / "support.yaml"


def deepcuts(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from deepcuts.pipelines.command.cli import main\n"
    code += "main(); sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)


def test_the_example_is_planned_and_every_alternative_has_a_reason():
    done = deepcuts("plan", "finetune", "-f", str(EXAMPLE), "--answer-share", "0.5")
    assert done.returncode == 0, done.stderr
    assert "Plan: cpu single x1" in done.stdout
    assert "gpu-spot" in done.stdout
    assert "costs more" in done.stdout


def test_a_deadline_that_nothing_meets_is_refused_with_what_would_do():
    done = deepcuts("plan", "finetune", "-f", str(EXAMPLE), "--deadline-hours", "0.001")
    assert done.returncode == 2
    assert "the fastest, gpu single x1" in done.stderr


def test_a_base_that_is_not_here_is_refused_without_fetching_it():
    done = deepcuts("plan", "finetune", "--set", "base_uri=hf://org/name@" + "c0ffee" * 6 + "abcd")
    assert done.returncode == 2
    assert "config.json is enough" in done.stderr
