"""Every pipeline, compiled: what a cluster would be told."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from pipelines.command import cli, settings
from pipelines.runner import pipeline_spec

POOLS = settings.pools()
NEVER_CACHED = {"retrain"}
"""A decision hangs on what happened since: it is kept in the store, once a window."""


@pytest.fixture(scope="module", params=cli.names())
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("compiled") / f"{request.param}.yaml"
    cli._compile(request.param, path)
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
        pool = POOLS[pipeline_spec.pool(leaf.placement)]
        assert leaf.placement["nodeSelector"]["labels"] == pool.selector, name
        keys = {toleration["key"] for toleration in leaf.placement.get("tolerations", [])}
        assert keys == {toleration.key for toleration in pool.tolerations}, name
        assert int(leaf.placement["activeDeadlineSeconds"]) > 0, name
        assert leaf.placement["securityContext"]["runAsNonRoot"], name


def test_every_task_is_cached_and_no_retry_window_is_the_default(package):
    for name, leaf in leaves(package):
        assert leaf.caching or name in NEVER_CACHED, name
        retry = leaf.task.retry_policy
        assert not retry.max_retry_count or retry.backoff_max_duration != "3600s", name
        assert bool(retry.max_retry_count) == POOLS[pipeline_spec.pool(leaf.placement)].spot, name


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
