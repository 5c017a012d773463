"""Every pipeline, compiled as for a cluster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from deepcuts.components.core import container
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.runner import pipeline_spec

ROOT = Path(__file__).parents[2]
POOLS = pools.read()
NEVER_CACHED = {"retrain", "publish", "ledger"}
"""A decision and a release are acts; what a run spent is not in the ledger's inputs."""


@pytest.fixture(scope="module", params=packages.names())
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("compiled") / f"{request.param}.yaml"
    packages.compile_to(request.param, path)
    return path


def leaves(package: Path) -> list[tuple[str, pipeline_spec.Leaf]]:
    found = list(pipeline_spec.leaves(pipeline_spec.read(package)))
    assert found
    return found


def test_kfp_accepts_the_file(package):
    loaded = components.load_component_from_file(str(package))
    assert loaded.pipeline_spec.pipeline_info.name == package.stem.replace("_", "-")  # kfp makes it so


def test_every_task_is_placed_on_a_known_pool(package):
    for name, leaf in leaves(package):
        if pipeline_spec.pool(leaf.placement) == pipeline_spec.AS_PLANNED:
            assert pipeline_spec.place(leaf.placement) in ("train", "scoring", "watch"), name
            continue
        pool = POOLS[pipeline_spec.pool(leaf.placement)]
        assert leaf.placement["nodeSelector"]["labels"] == pool.selector, name
        keys = {toleration["key"] for toleration in leaf.placement.get("tolerations", [])}
        assert keys == {toleration.key for toleration in pool.tolerations}, name
        assert int(leaf.placement["activeDeadlineSeconds"]) > 0, name
        assert leaf.placement["securityContext"]["runAsNonRoot"], name


def test_every_task_is_cached_and_no_retry_window_is_the_default(package):
    for name, leaf in leaves(package):
        fresh = package.stem == "retrain" and name == "prepare-data"  # a window's data grow under one URI
        assert leaf.caching or name.rpartition(".")[2] in NEVER_CACHED or fresh, name
        retry = leaf.task.retry_policy
        assert not retry.max_retry_count or retry.backoff_max_duration != "3600s", name
        pool = POOLS.get(pipeline_spec.pool(leaf.placement))  # None: plan may take a spot pool
        assert bool(retry.max_retry_count) == (pool is None or pool.spot), name


def test_every_task_that_the_cache_may_serve_leads_to_publish_by_artifacts(package):
    """Else its cost would be missing from the bill of a run that took it from the cache."""
    tasks = {name.rpartition(".")[2]: leaf for name, leaf in leaves(package)}
    seen, pending = set(), ["publish"]
    while pending:
        name = pending.pop()
        seen.add(name)
        sources = tasks[name].task.inputs.artifacts.values()
        made = [
            source.task_output_artifact.producer_task for source in sources if source.task_output_artifact
        ]
        outer = [source.component_input_artifact for source in sources if source.component_input_artifact]
        made += [known for known in tasks if any(f"--{known}-" in channel for channel in outer)]
        pending += [each for each in made if each not in seen]
    assert {name for name, leaf in tasks.items() if leaf.caching} <= seen


def test_no_component_has_a_default(package):
    spec: dict[str, Any] = next(yaml.safe_load_all(package.read_text()))
    for name, component in spec["components"].items():
        if "executorLabel" in component:
            for parameter in component.get("inputDefinitions", {}).get("parameters", {}).values():
                assert "defaultValue" not in parameter and "isOptional" not in parameter, name


def test_command_lines_are_python_modules_without_a_shell(package):
    for name, leaf in leaves(package):
        assert leaf.executor.container, name
        assert leaf.executor.container.command[:2] == ["python", "-m"], name
        assert not leaf.executor.container.env, name


def test_every_parameter_says_what_it_means(package):
    for name, parameter in pipeline_spec.read(package).root.input_definitions.parameters.items():
        assert parameter.description, name


def test_every_task_has_a_name_for_people(package):
    names = [leaf.task.task_info["name"] for _, leaf in leaves(package)]
    assert len(set(names)) == len(names)
    assert all(name[0].isupper() for name in names)


def test_two_processes_compile_the_same_bytes(tmp_path):
    """kfp 2.17.0 lists defaults in its comment as a protobuf map has them: in an order of the process."""
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    code = (
        "import sys, pathlib, deepcuts.pipelines.command.packages as p; "
        "p.compile_to('retrain', pathlib.Path(sys.argv[1]))"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT) for path in paths]
    assert [process.wait(120) for process in started] == [0, 0]
    one, two = (path.read_text() for path in paths)
    assert one == two and one.startswith("# PIPELINE DEFINITION\n# Name: retrain\n# Description: ")
    path, before = paths[0], pipeline_spec.read(paths[0]).digest  # of what the file says, however it says it
    documents = [turned(document) for document in yaml.safe_load_all(one)]
    path.write_text("# another comment\n" + yaml.safe_dump_all(documents, sort_keys=False, indent=4))
    assert pipeline_spec.read(path).digest == before
    documents[0]["deploymentSpec"]["executors"]["exec-ledger"]["container"]["image"] = "another"
    path.write_text(yaml.safe_dump_all(documents))
    assert pipeline_spec.read(path).digest != before


def turned(value: Any) -> Any:
    """The same value with every mapping's keys in reverse order."""
    match value:
        case dict():
            return {key: turned(value[key]) for key in reversed(value)}
        case list():
            return [turned(item) for item in value]
        case _:
            return value


def test_images_are_pinned_by_digest_where_digests_are_given(monkeypatch):
    digest = f"sha256:{'0a' * 32}"
    assert container.image_name("train") == f"{container.REGISTRY}/train:{container.TAG}"
    monkeypatch.setattr(container, "DIGESTS", {"train": digest, "data": "sha256:short"})
    assert container.image_name("train") == f"{container.REGISTRY}/train:{container.TAG}@{digest}"
    for image in ("data", "ops"):
        with pytest.raises(ValueError, match=f"DEEPCUTS_DIGESTS has .* for {image}: give {image}=sha256:"):
            container.image_name(image)
