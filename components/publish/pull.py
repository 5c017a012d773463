"""Pull: download a release to a server's disk, verified; run by the init container of a Deployment."""

from pathlib import Path

from deepcuts.components.core import cli, files
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.store import open_store
from deepcuts.components.publish import releases


def pull(store: str, name: str, version: str, folder: Path) -> Facts:
    """Download release ``name`` from ``store`` to ``folder``; ``version`` is a digest or ``latest``."""
    opened = open_store(store)
    chosen = releases.download(opened, name, version, folder)
    return {
        "release": name,
        "version": chosen,
        "source": opened.uri(f"{releases.checked_name(name)}/{chosen}"),
        "digest": files.digest(folder),
        "bytes": files.size_bytes(folder),
    }


if __name__ == "__main__":
    cli.main(pull)
