"""Check names of objects in a store: relative posix paths, the same on disk and in a bucket."""

import re


def checked(key: str) -> str:
    """Return ``key`` if it is a plain relative posix path, else raise ValueError."""
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or re.search(r"[\\\x00-\x1f]", key):
        raise ValueError(
            f"store key {key!r} is not a plain relative path: no '..', no leading or double slash"
        )
    return key


def checked_prefix(prefix: str) -> str:
    """Return ``prefix`` if it is "" or a prefix of plain keys, else raise ValueError."""
    return prefix and checked(prefix.removesuffix("/")) and prefix


def absent(uri: str) -> FileNotFoundError:
    """Return the error for an object that does not exist."""
    return FileNotFoundError(f"{uri} does not exist: check the URI, or run the step that makes it")
