"""Jobs of ``deepcuts compile --to job`` on a real cluster."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcuts.components.core.store import open_store
from deepcuts.pipelines import pools
from deepcuts.pipelines.kubeflow import jobs
from deepcuts.pipelines.placement import Size
from tests.cluster.conftest import Kubectl, ended
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster
SIZE = Size(1, "1Gi", 1)
WORK = ROOT / "manifests" / "base" / "work.yaml"


@pytest.fixture(scope="module", autouse=True)
def surroundings(kubectl: Kubectl, namespace: str) -> None:
    """What the manifests bring along: the volume."""
    kubectl("-n", namespace, "apply", "-f", str(WORK))


def made(tag: str, tmp_path: Path, step: str, title: str, **given: Any) -> str:
    """The manifest as the command writes it."""
    path, told = tmp_path / f"{title}.yaml", tmp_path / "given.yaml"
    told.write_text(yaml.safe_dump(given))
    words = ["compile", "--to", "job", step, "-f", str(told), "-o", str(path), "--name", title]
    size = ["--cpu", "1", "--memory", "1Gi", "--max-hours", "1"]
    code = f"import os; os.environ['DEEPCUTS_TAG'] = {tag!r}\n"
    code += "from deepcuts.pipelines.command.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *words, *size], cwd=ROOT, check=True)
    return path.read_text()


@pytest.mark.parametrize("name", sorted(jobs.faces()))
def test_job_of_every_component_is_admitted_where_restricted_is_enforced(kubectl, namespace, name):
    component = jobs.compiled(jobs.faces()[name], pools.named("cpu"), SIZE)[0].component
    values = {"str": "file:///work/x", "int": 1, "float": 0.5, "bool": True, "list": [], "dict": {}}
    kinds = {
        n: jobs.pipeline_spec.KINDS[p.parameter_type].__name__
        for n, p in component.input_definitions.parameters.items()
    }
    given = {n: values[kind] for n, kind in kinds.items()}
    given |= {n: f"s3://b/{n}" for n in component.input_definitions.artifacts}
    job = jobs.manifest(name, name.replace("_", "-"), given, pools.named("gpu"), SIZE)
    for value in (job, jobs.repeated(job, "0 4 * * 1")):
        told = kubectl("-n", namespace, "apply", "--dry-run=server", "-f", "-", text=json.dumps(value))
        assert "created (server dry run)" in told and "Warning" not in told, told


def test_job_runs_alone_and_leaves_its_outputs_on_the_volume(kubectl, namespace, store, tag, tmp_path):
    open_store(store).put_bytes("raw/data.jsonl", b'{"id": "a"}\n')
    manifest = made(tag, tmp_path, "fetch_data", "bring", uri=f"{store}/raw", data="raw", config="")
    kubectl("-n", namespace, "create", "-f", "-", text=manifest)
    how, _ = ended(kubectl, namespace, "bring")
    log = kubectl("-n", namespace, "logs", "job/bring")
    assert how == "Complete", log
    receipt = json.loads(log.splitlines()[-1])
    assert (receipt["pool"], receipt["facts"]["files"]) == ("cpu", 1)
    again = made(tag, tmp_path, "fetch_data", "again", uri=f"file://{jobs.WORK}/raw", data="copy", config="")
    kubectl("-n", namespace, "create", "-f", "-", text=again)
    assert ended(kubectl, namespace, "again")[0] == "Complete"
    copied = json.loads(kubectl("-n", namespace, "logs", "job/again").splitlines()[-1])
    assert copied["facts"]["digest"] == receipt["facts"]["digest"]


def test_job_that_cannot_succeed_fails_at_once_and_says_why(kubectl, namespace, store, tag, tmp_path):
    manifest = made(tag, tmp_path, "fetch_data", "nowhere", uri=f"{store}/nowhere", data="none", config="")
    kubectl("-n", namespace, "create", "-f", "-", text=manifest)
    how, job = ended(kubectl, namespace, "nowhere")
    assert (how, job["status"]["failed"]) == ("Failed", 1)
    assert "nowhere" in kubectl("-n", namespace, "logs", "job/nowhere")
