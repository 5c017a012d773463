"""The samples for KServe: against its own CRDs, where a clone of KServe is at hand, and against ours.

git clone --depth 1 --branch v0.20.0 https://github.com/kserve/kserve
DEEPCUTS_KSERVE=kserve pytest tests/manifests/test_kserve.py
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcuts.components.core import pods
from deepcuts.components.publish import reader_key, releases
from tests.conftest import ROOT

SERVING = ROOT / "manifests" / "serving"
INFERENCE, LLM = (SERVING / "kserve" / f"{kind}.yaml" for kind in ("inferenceservice", "llminferenceservice"))
CRDS = {
    INFERENCE: "config/crd/full/serving.kserve.io_inferenceservices.yaml",
    LLM: "config/crd/full/llmisvc/serving.kserve.io_llminferenceservices.yaml",
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def schema_of(path: Path) -> dict[str, Any]:
    """The OpenAPI schema of the sample's version, from the clone in ``DEEPCUTS_KSERVE`` (bare or not)."""
    if not (clone := os.environ.get("DEEPCUTS_KSERVE")):
        pytest.skip("no CRDs of KServe to check against: DEEPCUTS_KSERVE names no clone of it")
    show = ["git", "-C", clone, "show", f"{os.environ.get('DEEPCUTS_KSERVE_REF', 'HEAD')}:{CRDS[path]}"]
    text = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # 2.7 MB
    version = load(path)["apiVersion"].partition("/")[2]
    (found,) = (v for v in crd["spec"]["versions"] if v["name"] == version and v["served"])
    schema: dict[str, Any] = found["schema"]["openAPIV3Schema"]
    return schema


def problems(value: Any, schema: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yield what an API server would drop or refuse: unknown and missing keys, wrong types and values."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": float}
    wanted = kinds.get(schema.get("type", ""), object)
    if schema.get("x-kubernetes-int-or-string"):
        wanted = (int, str)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is int):
        yield f"{where} is no {schema['type']}: {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is {value!r}, not one of {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], str(value)):
        yield f"{where} is {value!r}, which does not match {schema['pattern']}"
    if value_below := [value] if "minimum" in schema and value < schema["minimum"] else []:
        yield f"{where} is {value_below[0]}, below {schema['minimum']}"
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        yield from (f"{where}.{key} is missing" for key in schema.get("required", []) if key not in value)
        for key, item in value.items():
            if key not in known and not more:
                if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
                    yield f"{where}.{key} is not known"
            else:
                yield from problems(item, known.get(key, more), f"{where}.{key}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), f"{where}[{number}]")


@pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)
def test_sample_is_what_the_crd_takes(path):
    assert list(problems(load(path), schema_of(path))) == []


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        (INFERENCE, lambda spec: spec["predictor"].update(models="x"), ".spec.predictor.models is not known"),
        (INFERENCE, lambda spec: spec.pop("predictor"), ".spec.predictor is missing"),
        (LLM, lambda spec: spec["model"]["lora"].update(maxRank=0), "maxRank is 0, below 1"),
        (LLM, lambda spec: spec.update(replicas="one"), ".spec.replicas is no integer"),
    ],
)
def test_check_against_the_crd_finds_what_an_api_server_would(path, change, said):
    sample, schema = load(path), schema_of(path)
    change(sample["spec"])
    assert [problem for problem in problems(sample, schema) if said in problem]


def settings(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry["valueFrom"] for entry in container["env"] if "valueFrom" in entry}


def test_inference_service_pulls_and_locks_its_pod_as_our_own_server():
    deployment = next(yaml.safe_load_all((SERVING / "base" / "server.yaml").read_text()))
    ours, theirs = deployment["spec"]["template"]["spec"], load(INFERENCE)["spec"]["predictor"]
    (pull,), (wanted,) = theirs["initContainers"], ours["initContainers"]
    told = dict(word.split("=", 1) for word in pull["args"])
    assert told.keys() == dict(word.split("=", 1) for word in wanted["args"]).keys()
    assert settings(pull).items() <= settings(wanted).items() and pull["env"]
    for key in ("image", "command", "resources", "securityContext", "volumeMounts"):
        assert pull[key] == wanted[key]
    for key in ("automountServiceAccountToken", "securityContext", "volumes"):
        assert theirs[key] == ours[key]
    (server,), (known,) = theirs["containers"], ours["containers"]
    assert server["name"] == "kserve-container" and "--port=8080" in server["args"]
    assert told["--folder"] in " ".join(server["args"])
    for key in ("securityContext", "volumeMounts", "lifecycle", "env"):
        assert server[key] == known[key]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe] == known[probe] | {"httpGet": {"path": "/health", "port": 8080}}


def test_tenants_are_read_with_the_readers_key_from_where_it_may_read():
    spec = load(LLM)["spec"]
    (initializer,) = spec["template"]["initContainers"]
    env = settings(initializer)
    assert initializer["name"] == "storage-initializer"
    keys = {name: env[name]["secretKeyRef"] for name in pods.SECRET_ENV.values()}
    assert keys == {name: {"name": pods.READER, "key": key} for key, name in pods.SECRET_ENV.items()}
    assert env["AWS_ENDPOINT_URL"]["configMapKeyRef"] == {"name": pods.SETTINGS, "key": "endpoint"}
    names = [adapter["name"] for adapter in spec["model"]["lora"]["adapters"]]
    assert len({*names, spec["model"]["name"]}) == 3  # KServe refuses an adapter called as its base
    allowed = json.dumps(reader_key.policy("deepcuts", ""))
    for adapter in spec["model"]["lora"]["adapters"]:
        prefix = f"s3://deepcuts/{releases.checked_name(adapter['name'])}/"
        assert adapter["uri"] == f"{prefix}VERSION/adapter/"
        assert "arn:aws:s3:::deepcuts/releases/*" in allowed
