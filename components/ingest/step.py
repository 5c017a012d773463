"""Ingest: turn raw rows of any usual format into checked Examples in train, valid and test."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import msgspec

from deepcuts.components.core import cli, files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.ingest import columns as naming
from deepcuts.components.ingest import formats, pages, parquet_files, readers, splits
from deepcuts.components.ingest.convert import Converted, Converter, Numbered, first_bytes
from deepcuts.components.ingest.engines import Conversion, conversion
from deepcuts.components.ingest.layouts import SourceFiles
from deepcuts.components.ingest.preview import Tally
from deepcuts.components.ingest.rows import BadRow, Row
from deepcuts.components.ingest.splits import Splitter
from deepcuts.components.rayjob import elsewhere
from deepcuts.components.rayjob.settings import Engine, RayCluster
from deepcuts.components.training.render import load_tokenizer

SPLITS = ("train", "valid", "test")
SNIFFED_ROWS = 100
"""The format is detected from this many rows."""


def ingest(
    raw: Path,
    base: Path,
    train: Path,
    valid: Path,
    test: Path,
    labels: Path,
    quarantine: Path,
    preview: Path,
    page: Path | None,
    format: str,
    columns: dict[str, str] | None,
    config: str | None,
    valid_share: float,
    test_share: float,
    max_bad_share: float,
    fold_system: bool | None,
    max_tokens: int,
    engine: Engine,
    ray: RayCluster,
    ray_image: str,
    nodepools: NodePools,
    store: str,
    seed: int,
) -> Facts:
    """Check, convert and split the rows of ``raw`` (a file or a folder); set aside unusable rows.

    The tokenizer of ``base`` counts tokens. ``columns`` maps a table's columns to roles, ``config`` selects
    one of several configurations. A conversation becomes one example per turn if its chat template writes
    earlier answers differently later. ``fold_system`` moves system turns into the first question. Splits that
    ``raw`` lacks are taken from train, with at least two examples each. ``preview`` (Markdown) and ``page``
    (HTML) show what was read and what is learned. If the data is refused, ``quarantine`` is the only output.
    ``engine`` local converts on all cores here, ray on those of the cluster ``ray``, with the same result; in
    a pod of a pipeline that is a RayJob of ``ray_image``, and ``store`` is how data gets there.

    Raises:
        DataError: there are too many bad rows, or a requested split is empty.
        ValueError: the shares, format or mapping are invalid, or an output is inside ``raw``.
    """
    given = dict(locals())
    outputs = {"test": test, "valid": valid, "train": train, "labels": labels, "preview": preview}
    outputs |= {"page": page} if page else {}
    _check(raw, [*outputs.values(), quarantine], format, columns or {}, max_bad_share, max_tokens)
    shares = valid_share, test_share, seed
    Splitter((), *shares)  # refuses impossible shares before anything is read
    if engine == "ray" and elsewhere.is_needed():
        return elsewhere.run(
            "deepcuts.components.ingest.step", given, ("raw", "base"), (*outputs, "quarantine")
        )
    sources = readers.sources(raw, config or "")
    form, took = recognised(format, columns or {}, sources)
    converter = Converter(load_tokenizer(base), form, columns or {}, bool(fold_system), max_tokens)
    with conversion(engine, ray) as convert, ExitStack() as staged:
        staging = {name: staged.enter_context(files.staged(path)) for name, path in outputs.items()}
        with files.staged(quarantine) as aside:  # written before the data is judged, for people to see
            places = {split: staging[split] for split in SPLITS} | {"quarantine": aside}
            tally, splitter = _read_and_split(sources, converter, shares, places, took, convert)
        _judge(tally, splitter, max_bad_share, max_tokens, quarantine)
        staging["labels"].write_bytes(msgspec.json.encode(sorted(tally.labels)) + b"\n")
        _show(tally, converter, staging)
        return tally.facts() | {"data_digest": files.digest(staging["train"])}


def recognised(flag: str, columns: Mapping[str, str], sources: SourceFiles) -> tuple[str, str]:
    """Return (format, how it was chosen, in words).

    Raises:
        ValueError: there is no such format.
        DataError: the rows do not show what to learn.
    """
    if columns:
        mapped = ", ".join(f"{role} from {column}" for role, column in columns.items())
        form = naming.format_of(columns) if flag == "auto" else formats.choose(flag, [])
        naming.check_rows(list(_first_rows(sources, None)), columns)
        return form, f"columns: {mapped}"
    if flag != "auto":
        return formats.choose(flag, []), "as format says"
    rows = list(_first_rows(sources, formats.COLUMNS))
    try:
        chosen = formats.detect(rows)
    except DataError as error:
        if all(readers.kind(source.path) not in (".csv", ".tsv") for source in sources.splits["train"]):
            raise
        raise DataError(
            f"{error}\n(names are taken from the first line: if it is a row, add a line of names above it)"
        ) from error
    return chosen, f"auto: rows have {' and '.join(formats.needed(rows, chosen))}"


def _first_rows(sources: SourceFiles, wanted: Collection[str] | None) -> Iterable[Mapping[str, object]]:
    """Return the first rows; of Parquet the columns ``wanted``, or all if those hold nothing to learn."""
    every = [source for split in SPLITS for source in sources.splits.get(split, [])]

    def read(only: Collection[str] | None) -> list[Mapping[str, object]]:
        rows = chain.from_iterable(readers.rows(source.path, source.part, only) for source in every)
        return [row.values for row in islice((row for row in rows if isinstance(row, Row)), SNIFFED_ROWS)]

    found = read(wanted)
    if wanted is None or any(
        formats.has_keys(row, name) for row in found for name in formats.FORMATS if name != "text"
    ):
        return found
    return read(None)


def _read_and_split(
    sources: SourceFiles,
    converter: Converter,
    shares: tuple[float, float, int],
    places: Mapping[str, Path],
    took: str,
    convert: Conversion,
) -> tuple[Tally, Splitter]:
    """Write every row to its place; once more if a split taken from train has too few examples."""
    splitter = Splitter(sources.splits.keys(), *shares)
    tally = read_all(sources, converter, splitter, places, took, convert)
    if moved := splits.top_up(places, splitter.carved, shares[-1]):
        splitter = Splitter(sources.splits.keys(), *shares, moved)
        tally = read_all(sources, converter, splitter, places, took, convert)
    return tally, splitter


def read_all(
    sources: SourceFiles,
    converter: Converter,
    splitter: Splitter,
    places: Mapping[str, Path],
    took: str,
    convert: Conversion,
    most_bytes: float = math.inf,
) -> Tally:
    """Write every row to its place, and count; a preview stops after ``most_bytes`` of rows."""
    tally = Tally(converter.form, took, sources.skipped)
    for split, files_of in sources.splits.items():
        tally.files[split] = [" ".join(filter(None, (one.path.name, one.part))) for one in files_of]
    for source in chain.from_iterable(sources.splits.values()):
        if (unusual := readers.dialect(source.path)) and unusual not in tally.dialects:
            tally.dialects.append(unusual)
    _count_unread(sources, converter, tally)
    progress = ProgressLog(_about(sources) if most_bytes == math.inf else 0, "rows")
    with ExitStack() as opened:
        sinks = {name: opened.enter_context(path.open("wb")) for name, path in places.items()}
        for split in reversed(SPLITS):  # the order that Splitter requires
            rows = first_bytes(_numbered(sources, split, converter), most_bytes)
            for item in convert(rows, converter):
                for place, record in _placed(item, split, splitter, converter.max_tokens, tally):
                    sinks[place].write(msgspec.json.encode(record) + b"\n")
                progress.add()
    return tally


def _about(sources: SourceFiles) -> int:
    """Estimate the number of rows; 0 if splits are parts of one document."""
    every = list(chain.from_iterable(sources.splits.values()))
    counts = [0 if source.part else readers.about(source.path) for source in every]
    return sum(counts) if all(counts) else 0


def _numbered(sources: SourceFiles, split: str, converter: Converter) -> Iterator[Numbered]:
    wanted = _wanted(converter)
    rows = (readers.rows(source.path, source.part, wanted) for source in sources.splits.get(split, []))
    return enumerate(chain.from_iterable(rows))


def _wanted(converter: Converter) -> set[str]:
    if converter.columns:
        return naming.top(converter.columns)
    return formats.COLUMNS


def _count_unread(sources: SourceFiles, converter: Converter, tally: Tally) -> None:
    """Count the Parquet columns that are not decoded."""
    for source in chain.from_iterable(sources.splits.values()):
        if readers.kind(source.path) == ".parquet":
            names, rows = parquet_files.columns(source.path)
            for name in sorted(set(names) - _wanted(converter)):
                tally.changes[f"column {name[:40]!r}, not used"] += rows


def _placed(
    item: Converted | BadRow, split: str, splitter: Splitter, max_tokens: int, tally: Tally
) -> Iterator[tuple[str, Example | BadRow]]:
    """Yield (output name, record) for all that is written of a row, counting it in ``tally``."""
    tally.rows += 1
    if isinstance(item, BadRow):
        tally.set_aside(item)
        yield "quarantine", item
        return
    tally.changes.update(item.changes)
    place = splitter.place(item.whole, split)  # by the whole, so that its turns or pieces stay together
    tally.split_conversations += len(item.parts) > 1 and item.whole.form is None
    for part in item.parts:
        if part.example.tokens > max_tokens:
            tally.too_long += 1
        elif place:
            example = tally.named(place, part.example)
            tally.keep(place, example, part.answer_tokens)
            yield place, example
        else:
            tally.overlap_removed += 1


def _show(tally: Tally, converter: Converter, staging: Mapping[str, Path]) -> None:
    shown = pages.Shown(tally, converter.max_tokens, converter.tokenizer)
    staging["preview"].write_text(pages.markdown(shown), encoding="utf-8")
    if "page" in staging:
        staging["page"].write_text(pages.html(shown), encoding="utf-8")


def _judge(tally: Tally, splitter: Splitter, max_bad_share: float, max_tokens: int, quarantine: Path) -> None:
    bad = tally.bad.total()
    if bad and bad / tally.rows > max_bad_share:
        raise DataError(
            f"{bad} of {tally.rows} rows are bad, above max_bad_share {max_bad_share}: correct them (see "
            f"{quarantine}) or raise it; most often:\n" + "\n".join(tally.worst())
        )
    for split in sorted(splitter.carved):
        if tally.examples and tally.examples[split] < splits.MIN_EXAMPLES:
            raise DataError(
                f"no example for {split}, or too few: the {tally.examples.total()} usable rows have too few "
                f"different texts for splits of {splits.MIN_EXAMPLES} each; give more, or a file for {split}"
            )
    for split in SPLITS:
        if split in splitter.wanted and not tally.examples[split]:
            raise DataError(
                f"no example for {split}: of {tally.rows} rows {bad} are bad, {tally.too_long} above "
                f"max_tokens {max_tokens}, {tally.overlap_removed} in another split: give more rows, "
                "raise max_tokens, or change the shares"
            )
    if 0 < tally.examples["test"] < splits.MIN_EXAMPLES:  # the gate would fail only after training
        raise DataError("test has 1 example, too few for an interval: add rows to its file")


def _check(
    raw: Path,
    outputs: list[Path],
    format: str,
    columns: Mapping[str, str],
    max_bad_share: float,
    max_tokens: int,
) -> None:
    naming.check(columns)
    formats.check_mapping(format, columns)
    if not 0 <= max_bad_share <= 1:
        raise ValueError(f"max_bad_share {max_bad_share}: give a share from 0 to 1")
    if max_tokens < 1:
        raise ValueError(f"max_tokens {max_tokens}: give at least 1")
    for path in outputs:
        if raw.resolve() in (path.resolve(), *path.resolve().parents):
            raise ValueError(f"output {path} is in the raw data {raw}: put it elsewhere")


if __name__ == "__main__":
    cli.main(ingest)
