"""Generate the text of one component's files in the catalogue; pure."""

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import docstring_parser
import kfp
import yaml
from kfp.dsl.base_component import BaseComponent

from deepcuts.components.core import markdown

WIDTH = 120
"""Maximum line length in that repository."""
STABILITY = "alpha"
"""Interfaces may change before 1.0."""
TYPES = {
    "String": "str",
    "Integer": "int",
    "Float": "float",
    "Boolean": "bool",
    "List": "list",
    "Dict": "dict",
}
"""Python types by kfp's parameter types."""
NEEDS = {"tune_katib": [{"name": "Katib", "version": ">=0.19.0"}]}
"""Kubeflow projects a component needs besides Pipelines."""
ANYWHERE = {
    "base": "The pretrained model (safetensors folder).",
    "receipt": "Resources used: seconds and memory; and what it found.",
}
"""Default descriptions, which docstrings may leave out."""
PLACED = {
    "pool": "name of the node pool",
    "selector": "node selector",
    "taints": "tolerations",
    "cpu": "cores",
    "memory": "memory, a quantity",
    "devices": "number of accelerators",
    "nodes": "nodes that it takes together, and what each asks for; empty for one",
}
"""Descriptions of the values by which a plan places pods."""


class CatalogueEntry(NamedTuple):
    """One of our components and its place in that repository."""

    name: str
    category: str
    face: BaseComponent

    @property
    def parameters(self) -> dict[str, str]:
        """Return the annotation of each input and output, as source."""
        spec = self.face.component_spec
        given = {name: _annotation("Input", each.type) for name, each in (spec.inputs or {}).items()}
        return given | {name: _annotation("Output", each.type) for name, each in (spec.outputs or {}).items()}

    @property
    def meanings(self) -> dict[str, str]:
        """Return the description of each input and output.

        Raises:
            ValueError: the component's docstring does not describe one.
        """
        known = {one.arg_name: " ".join((one.description or "").split()) for one in self._docstring.params}
        found = {name: known.get(name) or ANYWHERE.get(name) or _placed(name) for name in self.parameters}
        if silent := [name for name, words in found.items() if not words]:
            raise ValueError(f"{self.name}: its docstring does not describe {', '.join(silent)}: add it")
        return found

    @property
    def summary(self) -> str:
        return self._docstring.short_description or ""

    @property
    def description(self) -> str:
        return self._docstring.long_description or ""

    @property
    def container(self) -> Any:
        """Return image, command and args, as compiled."""
        return self.face.component_spec.implementation.container

    @property
    def _docstring(self) -> docstring_parser.Docstring:
        return docstring_parser.parse(inspect.getdoc(self.face.pipeline_func) or "")


def folder(entry: CatalogueEntry, owners: Sequence[str], verified: str) -> dict[str, str]:
    """Return the text of each file in the folder of ``entry``, by relative path."""
    return {
        "__init__.py": f'from .component import {entry.name}\n\n__all__ = ["{entry.name}"]\n',
        "component.py": component(entry),
        "metadata.yaml": metadata(entry, verified),
        "OWNERS": yaml.dump({"approvers": [*owners]}, Dumper=_Indented),
        "README.md": readme(entry),
        "tests/__init__.py": "",
        "tests/test_component_unit.py": unit_test(entry),
    }


def component(entry: CatalogueEntry) -> str:
    """Return component.py.

    The decorator is named ``component``, as their README generator reads the source and knows no other.
    """
    made = entry.container
    signature = "".join(f"    {name}: {kind},\n" for name, kind in entry.parameters.items())
    words = "".join(f"            {_literal(str(word))},\n" for word in made.args)
    command = ", ".join(map(_literal, made.command))
    return f"""from kfp import dsl
from kfp.dsl import container_component as component


@component
def {entry.name}(
{signature}):
{_docstring(entry)}
    return dsl.ContainerSpec(
        image={_literal(made.image)},
        command=[{command}],
        args=[
{words}        ],
    )
"""


def metadata(entry: CatalogueEntry, verified: str) -> str:
    """Return metadata.yaml with its keys in the required order."""
    needs = [{"name": "Pipelines", "version": f">={kfp.__version__}"}, *NEEDS.get(entry.name, [])]
    head = {"name": entry.name, "stability": STABILITY, "dependencies": {"kubeflow": needs}}
    return (
        "---\n"
        + yaml.dump(head, Dumper=_Indented, sort_keys=False)
        + f"lastVerified: {verified}T00:00:00Z\n"
        + yaml.dump({"tags": ["deepcuts", entry.category]}, Dumper=_Indented, sort_keys=False)
    )


def readme(entry: CatalogueEntry) -> str:
    """Return README.md."""
    kinds, meanings = entry.parameters, entry.meanings
    made = {name for name, kind in kinds.items() if "Output" in kind}

    def table(names: Sequence[str]) -> str:
        rows = [(f"`{name}`", f"`{kinds[name]}`", meanings[name]) for name in names]
        return markdown.table(("name", "type", "meaning"), rows)

    body = "\n\n".join(textwrap.fill(part, WIDTH) for part in (entry.summary, entry.description) if part)
    return f"""# {entry.name}

{body}

It runs `{" ".join(entry.container.command)}` in the image `{entry.container.image}`.

## Inputs

{table([name for name in kinds if name not in made])}

## Outputs

{table([name for name in kinds if name in made])}
"""


def unit_test(entry: CatalogueEntry) -> str:
    """Return tests/test_component_unit.py: the component compiles and passes on every argument."""
    title = "".join(part.capitalize() for part in entry.name.split("_"))
    return f'''import itertools

from kfp import compiler, components

from ..component import {entry.name}


class Test{title}:
    """The component as a pipeline uses it."""

    def test_it_compiles_and_is_read_back_with_the_same_interface(self, tmp_path):
        """A compiled file declares every input and output."""
        package = str(tmp_path / "component.yaml")
        compiler.Compiler().compile({entry.name}, package)
        read = components.load_component_from_file(package).component_spec
        declared = {entry.name}.component_spec
        assert set(read.inputs or {{}}) == set(declared.inputs or {{}})
        assert set(read.outputs or {{}}) == set(declared.outputs or {{}})

    def test_every_flag_has_one_value_and_no_flag_is_given_twice(self):
        """The step refuses any other argv."""
        args = {entry.name}.component_spec.implementation.container.args
        assert len(args) % 2 == 0
        flags = args[::2]
        assert all(flag.startswith("--") for flag in flags)
        assert not [pair for pair in itertools.pairwise(sorted(flags)) if pair[0] == pair[1]]
'''


class _Indented(yaml.SafeDumper):
    """Dumper that indents lists by two columns, as their linter requires."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _annotation(side: str, kind: str) -> str:
    title = kind.removeprefix("system.").partition("@")[0]
    if kind.startswith("system."):
        return f"dsl.{side}[dsl.{title}]"
    own = TYPES[title]
    return own if side == "Input" else f"dsl.OutputPath({own})"


def _placed(name: str) -> str:
    place, _, what = name.rpartition("_")
    return f"Of the pods that do {place}: {PLACED[what]}." if place and what in PLACED else ""


def _literal(text: str) -> str:
    """Return a Python string literal, in double quotes unless it contains one."""
    return repr(text) if '"' in text else f'"{text}"'


def _docstring(entry: CatalogueEntry) -> str:
    parts = [textwrap.fill(part, WIDTH - 4) for part in (entry.summary, entry.description) if part]
    args = [
        textwrap.fill(f"{name}: {words}", WIDTH - 4, initial_indent="    ", subsequent_indent="        ")
        for name, words in entry.meanings.items()
    ]
    text = "\n\n".join([*parts, "\n".join(["Args:", *args])])
    return textwrap.indent(f'"""{text}\n"""', "    ")
