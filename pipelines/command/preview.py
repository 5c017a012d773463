"""Show the data as it would be trained, in seconds and without running anything else."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from deepcuts.components.core import epochs, escape, files, recipe
from deepcuts.components.core.recipe import Recipe
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.command.options import File, Sets, out
from deepcuts.pipelines.run_file import places, settings
from deepcuts.pipelines.runner import spec_types

if TYPE_CHECKING:
    from deepcuts.components.ingest.convert import Converter
    from deepcuts.components.ingest.layouts import SourceFiles
    from deepcuts.components.ingest.preview import Tally

DEFAULTS = {
    "format": "auto",
    "columns": {},
    "fold_system": False,
    "max_bad_share": 0.001,
    "valid_share": 0.0,
    "test_share": 0.0,
}
FIRST_BYTES = 20_000_000
"""Of larger data only the beginning is read, as a preview must not take minutes."""


def preview(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A pipeline.")] = "finetune",
    file: File = None,
    sets: Sets = [],  # noqa: B006  (typer copies it)
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
) -> None:
    """Show the data as it would be trained: what is read and learned, token by token; runs nothing."""
    given, problems = settings.given(file, sets)
    pipeline = packages.read(name, problems)
    settings.partial(pipeline, given, problems)
    with tempfile.TemporaryDirectory(prefix="preview-") as scratch:
        base, raw = _inputs(pipeline, given, Path(scratch))
        _show(base, raw, _values(pipeline, given), html)


def train_tokens(pipeline: spec_types.Pipeline, given: Mapping[str, Any]) -> int:
    """Return about how many tokens one pass over the data of a run trains, duplicates not yet dropped.

    Raises:
        ValueError, FileNotFoundError, DataError, StoreError: base or data is not given, not there, or none.
    """
    with tempfile.TemporaryDirectory(prefix="tokens-") as scratch:
        values, (base, raw) = _values(pipeline, given), _inputs(pipeline, given, Path(scratch))
        sources, tally, _ = _read(base, raw, values, math.inf)
    return _kept_for_training(tally.tokens, sources, values)


def _values(pipeline: spec_types.Pipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the data is read, with what the pipeline does where it is not said."""
    known = pipeline.root.input_definitions.parameters
    named = {key: known[key].default_value for key in (*DEFAULTS, "max_tokens", "recipe") if key in known}
    config = given.get("data_config" if "data_config" in known else "config", "")
    return DEFAULTS | named | dict(given) | {"config": str(config)}


def _inputs(pipeline: spec_types.Pipeline, given: Mapping[str, Any], scratch: Path) -> tuple[Path, Path]:
    """Return the folders of base and data."""
    known = pipeline.root.input_definitions.parameters
    bases = [uri for uri in ("base_uri", "student_uri", "teacher_uri", "service_uri") if uri in known]
    return _base(bases[0], given, scratch / "base"), _data(given)


def _kept_for_training(tokens: int, sources: "SourceFiles", values: Mapping[str, Any]) -> int:
    """Return what is left of ``tokens`` after the splits are carved out that the data lacks."""
    carved = sum(
        float(values[f"{split}_share"]) for split in ("valid", "test") if split not in sources.splits
    )
    return max(1, round(tokens * (1 - carved)))


def _length(tokens: int, recipe: Recipe) -> str:
    """Return how long a run is, in tokens and in passes over ``tokens``."""
    said = epochs.in_words(epochs.settled(recipe, tokens).budget_tokens, tokens)
    return f"A run trains {said} of about {tokens:,}; what it drops as duplicates is not counted yet."


def _base(name: str, given: Mapping[str, Any], folder: Path) -> Path:
    """Return the folder of the base; a remote one is copied to ``folder`` without its weights.

    Raises:
        ValueError, FileNotFoundError, DataError, StoreError: it is not given, missing, or not a model.
    """
    uri = _given(name, given)
    if path := places.local(uri):
        return path
    from deepcuts.components.fetch import safety, sources  # takes half a second to import

    source = sources.locate(places.pinned({name: uri}, None, out.note)[name], "model")
    kept = safety.choose(source.names(), "model")
    source.copy([one for one in kept if safety.suffix(one) != ".safetensors"], folder)
    return folder


def _data(given: Mapping[str, Any]) -> Path:
    """Return the data on this machine; raises ValueError where it is elsewhere, or not given."""
    uri = _given("data_uri", given)
    if path := places.local(uri):
        return path
    raise ValueError(f"data_uri {uri!r}: data is read on this machine: give --set data_uri=PATH")


def _given(name: str, given: Mapping[str, Any]) -> str:
    if uri := str(given.get(name, "")):
        return uri
    raise ValueError(f"{name}: missing: give -f run.yaml, or --set {name}=PATH")


def _read(
    base: Path, raw: Path, values: Mapping[str, Any], most_bytes: float
) -> tuple["SourceFiles", "Tally", "Converter"]:
    """Read the data as ``ingest`` does, and count."""
    from deepcuts.components.ingest import readers, step  # transformers takes seconds: others do not wait
    from deepcuts.components.ingest.convert import Converter, converted
    from deepcuts.components.ingest.splits import Splitter
    from deepcuts.components.training.render import load_tokenizer

    sources = readers.sources(raw, values["config"])
    form, took = step.recognised(values["format"], values["columns"], sources)
    converter = Converter(
        load_tokenizer(base), form, values["columns"], values["fold_system"], int(values["max_tokens"])
    )
    with tempfile.TemporaryDirectory(prefix="preview-") as scratch:
        places = {split: Path(scratch) / split for split in (*step.SPLITS, "quarantine")}
        splitter = Splitter(sources.splits.keys(), 0.0, 0.0, seed=0)
        tally = step.read_all(sources, converter, splitter, places, took, converted, most_bytes)
    return sources, tally, converter


def _show(base: Path, raw: Path, values: dict[str, Any], html: Path | None) -> None:
    from deepcuts.components.ingest import pages  # as above
    from deepcuts.components.training.render import render

    sources, tally, converter = _read(base, raw, values, FIRST_BYTES)
    shown = pages.Shown(tally, converter.max_tokens, converter.tokenizer)
    for line in pages.summary(shown):
        out.print(escape.terminal(line), highlight=False, markup=False)
    for why, rows, where in shown.reasons():
        out.print(Text(escape.terminal(f"set aside: {rows} x {why} {where}"), "yellow"))
    for what, count in tally.changes.most_common(20):
        out.print(Text(escape.terminal(f"changed or not used: {count:,} x {what}"), "yellow"))
    if (bad := tally.bad.total()) > values["max_bad_share"] * tally.rows:
        refused = f"a run refuses this: {bad:,} of {tally.rows:,} rows are bad, above max_bad_share "
        out.print(Text(f"{refused}{values['max_bad_share']}", "bold red"))
    if tally.skipped:
        out.print(Text(escape.terminal(f"files not read: {', '.join(tally.skipped[:20])}"), "yellow"))
    if not tally.lengths:
        raise ValueError(f"no row of {raw} can be trained on: correct them, or set format or columns")
    if "recipe" in values and files.size_bytes(raw) <= FIRST_BYTES:  # of a part nothing is known
        tokens = _kept_for_training(tally.tokens, sources, values)
        out.print(_length(tokens, recipe.parse(values["recipe"])), highlight=False)
    for span, count, bar in shown.histogram():
        out.print(f"{span:>15} {count:>9,} {'█' * bar}", highlight=False, markup=False)
    for title, example in shown.examples():
        rendered = render(example, converter.tokenizer)
        out.rule(title)
        out.print(_coloured(pages.unmarked(pages.texts(rendered, converter.tokenizer)), ""))
        out.print(_coloured(pages.unmarked(pages.pieces(rendered, converter.tokenizer)), "│"))
    out.print(Text.assemble(("green", "bold green"), " between ⟦ and ⟧ is learned, including its end token"))
    if html:
        html.write_text(pages.html(shown), encoding="utf-8")
        out.print(f"HTML: {html}", highlight=False, soft_wrap=True)


def _coloured(parts: Iterator[tuple[bool, str]], divider: str) -> Text:
    """Show learned text in green and between ⟦ and ⟧, which a pipe or a printout keeps."""
    text, before = Text(), False
    for learned, part in parts:
        if learned != before:
            text.append("⟦" if learned else "⟧", "bold green")
        elif divider and text:
            text.append(divider, "dim")
        text.append(escape.terminal(part), "green" if learned else "")
        before = learned
    return text.append("⟧", "bold green") if before else text
