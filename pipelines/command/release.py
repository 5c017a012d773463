"""Released models: talk to one, put the one before back."""

from pathlib import Path
from typing import Annotated

import typer

from components.core.store import open_store
from components.publish import releases
from pipelines.command import chat as talk
from pipelines.command.options import Releases, out

RELEASES = (Path("runs") / "store").resolve().as_uri()


def chat(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="Folder, URI, NAME or NAME/VERSION.", show_default=False)
    ],
    store: Releases = RELEASES,
    prompt: Annotated[
        list[str], typer.Option("--prompt", help="Say this instead of asking; again for more.")
    ] = [],  # noqa: B006
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    seed: Annotated[int, typer.Option(help="Draws the answers at a temperature.")] = 0,
) -> None:
    """Talk to a released model on the terminal; ends with the end of input (Ctrl-D)."""
    with talk.located(release, store) as folder:
        talk.talk(folder, prompt or talk.typed(input), temperature, max_new_tokens, seed)


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the release.", show_default=False)],
    store: Releases = RELEASES,
) -> None:
    """Put the previous release back in service, after reading it back; nothing is deleted."""
    left, back = releases.rollback(open_store(store), name)
    out.print(f"{name}: {back} is in service again, {left} no more", highlight=False, soft_wrap=True)
