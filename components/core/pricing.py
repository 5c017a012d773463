"""The one price formula: a node is billed whole, by the second it is held."""

from typing import overload


@overload
def usd(node_seconds: float, usd_per_hour: float) -> float: ...
@overload
def usd(node_seconds: float, usd_per_hour: float | None) -> float | None: ...
def usd(node_seconds: float, usd_per_hour: float | None) -> float | None:
    """Return what ``node_seconds`` of a node cost; None, never 0, where the price is unknown."""
    return None if usd_per_hour is None else node_seconds * usd_per_hour / 3600
