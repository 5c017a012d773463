"""The only price formula: a whole node, billed by the second."""

from typing import overload


@overload
def usd(node_seconds: float, usd_per_hour: float) -> float: ...
@overload
def usd(node_seconds: float, usd_per_hour: float | None) -> float | None: ...
def usd(node_seconds: float, usd_per_hour: float | None) -> float | None:
    """Return the cost of ``node_seconds`` of a node; None, never 0, if the price is unknown."""
    return None if usd_per_hour is None else node_seconds * usd_per_hour / 3600
