"""Check names of services and windows, which are used in keys of the store."""

import re


def named(what: str, name: str) -> str:
    """Return ``name`` if it is valid in a key of the store.

    Raises:
        ValueError: it is not valid.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,99}", name):
        raise ValueError(f"{what} {name!r}: give 1 to 100 letters, digits, dots, dashes or underscores")
    return name
