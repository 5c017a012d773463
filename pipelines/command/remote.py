"""Connect to a Kubeflow server, and prepare the arguments of a run on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcuts.pipelines.command import confirm, packages
from deepcuts.pipelines.command.options import out
from deepcuts.pipelines.command.run import fills
from deepcuts.pipelines.kubeflow import inputs
from deepcuts.pipelines.run_file import places, settings

if TYPE_CHECKING:
    from deepcuts.pipelines.kubeflow.client import Server


def login(host: str, namespace: str, token: str, cookies: str, ca_cert: str) -> "Server":
    """Return the server, asked with these; what is empty comes from the environment."""
    from deepcuts.pipelines.kubeflow import client  # kfp takes a second, which others do not wait for

    return client.Server(client.Login(host, namespace, token, cookies, ca_cert))


def arguments(
    name: str,
    file: Path | None,
    sets: list[str],
    root: str,
    package: Path,
    record: Path | None,
    problems: Sequence[str] = (),
    *,
    yes: bool,
) -> dict[str, Any]:
    """Compile ``name`` to ``package``; return its arguments for a cluster, with local files put in the store.

    Asks, unless ``yes``, if the run may cost more than the run file's limit.

    Raises:
        ValueError: the ``problems`` found before, and all problems with the arguments.
    """
    given, found = settings.given(file, sets)
    problems, store_uri = [*problems, *found], f"{root.split('/v2/')[0]}/deepcuts"
    pipeline = packages.checked(name, package, problems)
    ready = settings.complete(pipeline, given, fills(Path()) | {"store_uri": store_uri}, problems)
    ready = places.pinned(ready, record, out.note)
    confirm.ask(pipeline, given, ready, yes, local=False)
    return inputs.lifted(ready, store_uri)
