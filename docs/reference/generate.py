"""Write the reference pages from the code: every parameter of every pipeline, every field of the Recipe.

Run ``python docs/reference/generate.py`` from the repository root; ``tests/test_docs.py`` fails while a page
is stale.
"""

import importlib
import inspect
import json
import re
import sys
import typing
from pathlib import Path

import docstring_parser
import msgspec
import places
from msgspec import inspect as types

from deepcuts.components.core.markdown import table
from deepcuts.components.core.recipe import EXECUTION, LengthPhase, Recipe
from deepcuts.pipelines.run_file.parameters import WORDS, in_words, meanings

HERE = Path(__file__).parent
PIPELINES = HERE.parents[1] / "pipelines"
FILLED = {"store_uri": "under `--runs`", "nodepools": "`nodepools.yaml`"}
NOTE = "<!-- written by docs/reference/generate.py -->\n"


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    names = pipeline_names()
    found = {f"{name}.md": pipeline_page(name) for name in names}
    found["recipe.md"] = recipe_page()
    found["index.md"] = index_page(names)
    found["places.md"] = places.page(NOTE)
    return found


def pipeline_names() -> list[str]:
    """List the pipelines: ``pipelines/NAME.py`` with a ``@pipeline``."""
    return sorted(
        p.stem for p in PIPELINES.glob("*.py") if re.search(r"^@pipeline", p.read_text(), re.MULTILINE)
    )


def index_page(names: list[str]) -> str:
    """Return the page that says what a run.yaml is."""
    listed = table(("pipeline", ""), [(f"[{name}]({name}.md)", _summary(name)) for name in names])
    return f"""{NOTE}# Reference

`run.yaml` gives the parameters of a pipeline, one `name: value` each; `recipe` is a mapping of its own:

    base_uri: hf://ORG/NAME@40-DIGIT-COMMIT
    data_uri: tickets.jsonl
    recipe: {{method: lora, budget_tokens: 5M}}

Paths count from the file's own folder. `--set name=value` and `--set recipe.name=value` come after it. An
unknown key is an error that suggests the nearest one.

{listed}

[Recipe](recipe.md): the hyperparameters of one training run. [Where a run goes](places.md): three models on
three clusters.
"""


def pipeline_page(name: str) -> str:
    """Return the page of one pipeline: parameter, type, default, meaning."""
    graph = getattr(importlib.import_module(f"deepcuts.pipelines.{name}"), name)
    described = _descriptions(graph.pipeline_func.__doc__ or "")
    hints = typing.get_type_hints(graph.pipeline_func)
    defaults = {key: p.default for key, p in inspect.signature(graph.pipeline_func).parameters.items()}
    required_first = sorted(defaults, key=lambda key: defaults[key] is not inspect.Parameter.empty)
    rows = [
        (f"`{key}`", WORDS[hints[key].__name__], _default(key, defaults[key]), _cell(described.get(key, "")))
        for key in required_first
    ]
    text = table(("parameter", "type", "default", "meaning"), rows)
    return f"{NOTE}# deepcuts run {name}\n\n{_summary(name)}\n\n{text}\n"


def recipe_page() -> str:
    """Return the page of the Recipe."""
    return f"""{NOTE}# Recipe

The hyperparameters of one training run, under `recipe` in run.yaml. Keys marked * say how far or how
a run goes, not what it is: changing them continues the same training from its checkpoints.

{_fields(Recipe)}

## Entries of length_phases

{_fields(LengthPhase)}
"""


def _fields(kind: type[msgspec.Struct]) -> str:
    described = meanings(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        mark = "*" if kind is Recipe and field.name in EXECUTION else ""
        default = "required" if field.required else f"`{json.dumps(_default_of(field))}`"
        kind_of = in_words(types.type_info(field.type), "`")
        rows.append((f"`{field.name}`{mark}", kind_of, default, _cell(described.get(field.name, ""))))
    return table(("key", "type", "default", "meaning"), rows)


def _default_of(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _summary(name: str) -> str:
    graph = getattr(importlib.import_module(f"deepcuts.pipelines.{name}"), name)
    return (graph.pipeline_func.__doc__ or "").strip().splitlines()[0]


def _descriptions(doc: str) -> dict[str, str]:
    """Read the ``Args`` of a Google-style docstring."""
    return {p.arg_name: " ".join((p.description or "").split()) for p in docstring_parser.parse(doc).params}


def _default(key: str, value: object) -> str:
    if key in FILLED:
        return FILLED[key]
    return "required" if value is inspect.Parameter.empty else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("``", "`")


def main(folder: Path) -> None:
    """Write the pages to ``folder``."""
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
