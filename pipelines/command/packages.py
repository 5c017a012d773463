"""Compile pipelines by name or read compiled files, refusing what a Kubeflow server would refuse."""

import difflib
import importlib
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from deepcuts.components.core import strict
from deepcuts.pipelines.kubeflow import server_rules
from deepcuts.pipelines.runner import pipeline_spec, spec_types

HERE = Path(__file__).parents[1]


def names() -> list[str]:
    """Return every pipeline: ``pipelines/NAME.py`` with a ``@pipeline`` of the same name."""
    return sorted(p.stem for p in HERE.glob("*.py") if re.search(r"^@pipeline", p.read_text(), re.MULTILINE))


def compile_to(name: str, path: Path, defaults: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Compile a pipeline, with ``defaults`` in place of its own, and read it back as Kubeflow does.

    Raises:
        FileNotFoundError: there is no such pipeline.
        ValueError: its node pools are wrong.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=strict.NEAR)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}"
        raise FileNotFoundError(f"no pipeline {name!r}: {hint}")
    from kfp import compiler, components  # takes a second to import

    path.parent.mkdir(parents=True, exist_ok=True)
    pipeline = getattr(importlib.import_module(f"deepcuts.pipelines.{name}"), name)
    compiler.Compiler().compile(pipeline, str(path), pipeline_parameters=dict(defaults))
    _order_comment(path, pipeline.description)
    components.load_component_from_file(str(path))
    server_rules.check(path)


def _order_comment(path: Path, description: str) -> None:
    """Rewrite the comment of a compiled pipeline with sorted keys in defaults, as in the YAML below it.

    kfp 2.17.0 takes them from a protobuf map, whose order differs between processes.
    """
    from kfp.compiler.pipeline_spec_builder import extract_comments_from_pipeline_spec

    body = re.sub(r"\A(#.*\n)+", "", path.read_text())
    spec = next(iter(yaml.safe_load_all(body)))
    path.write_text(extract_comments_from_pipeline_spec(spec, description) + body)


def package(name: str, path: Path) -> None:
    """Compile the pipeline ``name``, or copy the compiled file ``name``, to ``path``."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise FileNotFoundError(
                f"no compiled pipeline at {name}: write it with deepcuts compile, or name a pipeline"
            )
        server_rules.check(Path(name))
        shutil.copyfile(name, path)
    else:
        compile_to(name, path)


def checked(name: str, path: Path, problems: Sequence[str]) -> spec_types.Pipeline:
    """Write the pipeline as ``package`` does, and read it.

    Raises:
        ValueError: it does not exist; includes the ``problems`` found before.
    """
    try:
        package(name, path)
    except ValueError as error:
        raise ValueError("\n".join([str(error), *problems])) from error
    return pipeline_spec.read(path)


def read(name: str, problems: Sequence[str] = ()) -> spec_types.Pipeline:
    """Read a pipeline by name, or a compiled file; raises the errors of ``checked``."""
    with tempfile.TemporaryDirectory() as scratch:
        return checked(name, Path(scratch) / "pipeline.yaml", problems)
