"""List released models, chat with one, and roll back."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer
from rich.table import Column, Table
from rich.text import Text

from deepcuts.components.core import records
from deepcuts.components.core.scorecards import Scorecard
from deepcuts.components.core.store import Store, manifest_at, open_store
from deepcuts.components.ledger import formatting
from deepcuts.components.ledger.ledger import Ledger
from deepcuts.components.publish import releases
from deepcuts.pipelines.command import chat as talk
from deepcuts.pipelines.command.options import RELEASES, AsJson, Releases, out, print_json


class Listed(msgspec.Struct, frozen=True):
    """A release in a list."""

    name: str
    version: str
    in_service: bool
    released_at: str
    """UTC, ISO 8601; empty if the log does not have it."""
    completion_loss: float
    """Mean nats per answer token on the examples it was judged by."""
    bytes: int
    usd: float | None
    """Cost of its run, including cached work; None if a price is unknown."""
    uri: str


def list_releases(
    store: Releases = RELEASES,
    as_json: AsJson = False,
) -> None:
    """List releases, newest last, with quality, size, cost, and the version in service."""
    found = list(listed(open_store(store)))
    if as_json:
        print_json(found)
        return
    if not found:
        out.print(f"nothing was released in {store}", highlight=False, soft_wrap=True)
        return
    rows = Table("name", Column("version", min_width=16), "released (UTC)", "loss", "size", "$", "in service")
    for one in found:
        rows.add_row(
            Text(one.name),
            Text(one.version),
            one.released_at[:16].replace("T", " ") or "–",
            f"{one.completion_loss:.4g}",
            formatting.size(one.bytes),
            "unknown" if one.usd is None else f"{one.usd:.4f}",
            "yes" if one.in_service else "",
        )
    out.print(rows)


def listed(store: Store) -> Iterator[Listed]:
    """Yield releases that were neither rolled back nor deleted, by name, oldest first.

    Raises:
        DataError: a log is damaged, or a release has no ledger or Scorecard.
    """
    keys = store.list("releases/")
    for name in sorted({key.split("/")[1] for key in keys if releases.NAME.fullmatch(key.split("/")[1])}):
        kept = releases.in_service(releases.read(store, name))
        for move in kept:
            prefix = f"{releases.checked_name(name)}/{move.version}"
            if f"{prefix}/ledger.json" not in keys:
                continue
            fix = f"roll back from {name}/{move.version}, or release the model again"
            ledger = records.read(store, f"{prefix}/ledger.json", Ledger, fix)
            card = records.read(store, f"{prefix}/scorecard/scorecard.json", Scorecard, fix)
            yield Listed(
                name,
                move.version,
                move is kept[-1],
                move.at,
                card.completion_loss.mean,
                sum(entry["bytes"] for entry in manifest_at(store, prefix)["files"].values()),
                None if ledger.total.unknown else ledger.total.usd,
                store.uri(prefix),
            )


def chat(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="Folder, URI, NAME or NAME/VERSION.", show_default=False)
    ],
    store: Releases = RELEASES,
    prompt: Annotated[
        list[str], typer.Option("--prompt", help="Prompt to use instead of asking; may be repeated.")
    ] = [],  # noqa: B006
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed for sampling.")] = 0,
) -> None:
    """Chat with a released model in the terminal, until the end of input (Ctrl-D)."""
    with talk.located(release, store) as folder:
        talk.talk(folder, prompt or talk.typed(input), temperature, max_new_tokens, seed)


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the release.", show_default=False)],
    store: Releases = RELEASES,
) -> None:
    """Put the previous release back in service after verifying it; deletes nothing."""
    place = open_store(store)
    if not releases.read(place, name):
        raise FileNotFoundError(f"no release {name!r} in {store}: deepcuts releases lists them")
    left, back = releases.rollback(place, name)
    out.print(f"{name}: {back} is in service again, {left} no longer", highlight=False, soft_wrap=True)
