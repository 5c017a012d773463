"""Copy local inputs of a run to where its pods can read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deepcuts.components.core import files
from deepcuts.components.core.store import open_store


def lifted(arguments: Mapping[str, Any], store_uri: str) -> dict[str, Any]:
    """Return ``arguments`` with local files (``file://`` in a ``…uri``) copied into the store, by content.

    Raises:
        ValueError: there are local files, but the environment has no settings for the store.
    """
    local = {n: Path(unquote(urlsplit(v).path)) for n, v in arguments.items() if _is_file(n, v)}
    store = open_store(store_uri) if local else None
    moved = {}
    for name, path in local.items():
        assert store
        prefix = f"inputs/{files.digest(path)[:16]}"
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            key = f"{prefix}/{file.relative_to(path.parent).as_posix()}"
            if file.is_file() and not store.exists(key):
                store.put(key, file)
        moved[name] = store.uri(f"{prefix}/{path.name}")
    return dict(arguments) | moved


def _is_file(name: str, value: object) -> bool:
    return name.endswith("uri") and isinstance(value, str) and value.startswith("file://")
