"""Ingest: raw rows of any usual shape become checked Examples in train, valid and test, none in two."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import msgspec
from transformers import PreTrainedTokenizerBase

from components.core import cli, files
from components.core.errors import DataError, ModelFault
from components.core.examples import Example
from components.core.receipts import Facts
from components.ingest import formats, readers
from components.ingest.preview import Tally, markdown
from components.ingest.readers import BadRow, Row, Sources
from components.ingest.splits import Splitter
from components.training.render import Rendered, load_tokenizer, render, turns_of, with_system_folded

Item = tuple[str, Example, list[tuple[Example, Rendered]]] | BadRow
"""One row: the split of its file, the conversation, and the Examples it is trained as; or why it is bad."""
SPLITS = ("train", "valid", "test")


def ingest(
    raw: Path,
    base: Path,
    train: Path,
    valid: Path,
    test: Path,
    labels: Path,
    quarantine: Path,
    preview: Path,
    format: str,
    valid_share: float,
    test_share: float,
    max_bad_share: float,
    fold_system: bool,
    max_tokens: int,
    seed: int,
) -> Facts:
    """Check and convert the rows of ``raw`` (a file or a folder), split them, set aside what cannot be used.

    The tokenizer of ``base`` counts tokens. A conversation whose earlier answers its chat template writes
    differently later becomes one example a turn. ``fold_system`` puts system turns into the first question.
    Splits that ``raw`` lacks are carved out of train. When the data
    is refused, ``quarantine`` is the only output.

    Raises:
        DataError: too many bad rows, or a split that was asked for is empty.
        ValueError: impossible shares, an unknown format, an output inside ``raw``.
    """
    outputs = {"test": test, "valid": valid, "train": train, "labels": labels, "preview": preview}
    _check(raw, [*outputs.values(), quarantine], max_bad_share, max_tokens)
    sources = readers.find(raw)
    splitter = Splitter(sources.splits.keys(), valid_share, test_share, seed)
    tally = Tally(_format(format, sources), sources.skipped)
    tokenizer = load_tokenizer(base)
    with ExitStack() as staged:
        staging = {name: staged.enter_context(files.staged(path)) for name, path in outputs.items()}
        with files.staged(quarantine) as aside:  # whole before the data is judged: people need to look
            _write(
                _sorted(_items(sources, tally.format, tokenizer, fold_system), splitter, max_tokens, tally),
                {split: staging[split] for split in SPLITS} | {"quarantine": aside},
            )
        _judge(tally, splitter.wanted, max_bad_share, max_tokens, quarantine)
        staging["labels"].write_bytes(msgspec.json.encode(sorted(tally.labels)) + b"\n")
        staging["preview"].write_text(markdown(tally, max_tokens, tokenizer), encoding="utf-8")
        return tally.facts() | {"data_digest": files.digest(staging["train"])}


def _format(flag: str, sources: Sources) -> str:
    paths = chain(*(sources.splits.get(split, []) for split in SPLITS))
    rows = (row.values for path in paths for row in readers.rows(path) if isinstance(row, Row))
    return formats.choose(flag, islice(rows, 100))


def _items(sources: Sources, form: str, tokenizer: PreTrainedTokenizerBase, fold: bool) -> Iterator[Item]:
    for split in reversed(SPLITS):  # the order that Splitter wants
        ids: set[str] = set()
        for path in sources.splits.get(split, []):
            for row in readers.rows(path):
                if isinstance(row, BadRow):
                    yield row
                else:
                    yield _item(row, split, form, tokenizer, ids, fold)


def _item(
    row: Row, split: str, form: str, tokenizer: PreTrainedTokenizerBase, ids: set[str], fold: bool
) -> Item:
    try:
        example = formats.convert(row.values, form, len(ids))
        if example.id in ids:
            raise DataError("its id is that of a row before: make ids unique, or drop the column")
        example = with_system_folded(example) if fold else example
        rendered = render(example, tokenizer)
        turns = turns_of(example, rendered)
        whole = turns == [example]
        trained = [(turn, rendered if whole else render(turn, tokenizer)) for turn in turns]
    except ModelFault:
        raise
    except DataError as error:
        return BadRow(row.file, row.line, str(error), row.text)
    ids.add(example.id)
    return split, example, trained


def _sorted(
    items: Iterator[Item], splitter: Splitter, max_tokens: int, tally: Tally
) -> Iterator[tuple[str, Example | BadRow]]:
    """(name of its output, record) of each row that is written; ``tally`` counts all of them."""
    for item in items:
        tally.rows += 1
        if isinstance(item, BadRow):
            tally.set_aside(item)
            yield "quarantine", item
            continue
        split, example, trained = item
        place = splitter.place(example, split)  # of the conversation: its turns stay together
        tally.split_conversations += len(trained) > 1
        for turn, rendered in trained:
            if len(rendered.ids) > max_tokens:
                tally.too_long += 1
            elif place:
                tally.keep(place, turn, rendered)
                yield place, turn
            else:
                tally.overlap_removed += 1


def _write(records: Iterable[tuple[str, Example | BadRow]], places: dict[str, Path]) -> None:
    with ExitStack() as opened:
        sinks = {name: opened.enter_context(path.open("wb")) for name, path in places.items()}
        for name, record in records:
            sinks[name].write(msgspec.json.encode(record) + b"\n")


def _judge(tally: Tally, wanted: set[str], max_bad_share: float, max_tokens: int, quarantine: Path) -> None:
    bad = tally.bad.total()
    if bad and bad / tally.rows > max_bad_share:
        raise DataError(
            f"{bad} of {tally.rows} rows are bad, above max_bad_share {max_bad_share}: mend them (they stand "
            f"in {quarantine}) or raise it; most often:\n" + "\n".join(tally.worst())
        )
    for split in SPLITS:
        if split in wanted and not tally.examples[split]:
            raise DataError(
                f"no example for {split}: of {tally.rows} rows {bad} are bad, {tally.too_long} above "
                f"max_tokens {max_tokens}, {tally.overlap_removed} in another split: give more rows, "
                "raise max_tokens, or change the shares"
            )


def _check(raw: Path, outputs: list[Path], max_bad_share: float, max_tokens: int) -> None:
    if not 0 <= max_bad_share <= 1:
        raise ValueError(f"max_bad_share {max_bad_share}: give a share from 0 to 1")
    if max_tokens < 1:
        raise ValueError(f"max_tokens {max_tokens}: give at least 1")
    for path in outputs:
        if raw.resolve() in (path.resolve(), *path.resolve().parents):
            raise ValueError(f"output {path} is in the raw data {raw}: put it elsewhere")


if __name__ == "__main__":
    cli.main(ingest)
