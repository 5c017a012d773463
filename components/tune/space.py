"""Space: what a search may choose from, with values as in a Recipe, and as text for Katib."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

Scalar = bool | int | float | str
Values = dict[str, Scalar]
"""One configuration: values by name, without inactive ones."""
MAX_LISTED = 10_000
"""Larger grids are not listed, as random draws do not exhaust them."""


class Dimension(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["float", "int", "choice"]
    min: float | None = None
    max: float | None = None
    log: bool = False
    """Uniform on a logarithmic scale: for learning rates, ranks."""
    values: list[Scalar] = []
    """Values of a choice."""
    when: dict[str, list[Scalar]] = {}
    """Active only if each of these choices has one of these values: ``{"method": ["lora"]}``."""

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.values or self.min is not None or self.max is not None or self.log:
                raise ValueError("a choice takes values, and neither min, max nor log: give values")
            if len({text(value) for value in self.values}) < len(self.values):
                raise ValueError(f"a choice names a value twice: {self.values}: remove one")
            return
        if self.values:
            raise ValueError(f"{self.kind} with values {self.values}: make it a choice, or give min and max")
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"min {self.min} and max {self.max} are not a range: give numbers, min first")
        if self.log and low <= 0:
            raise ValueError(f"log with min {self.min}: a logarithm needs min above 0")
        if self.kind == "int" and (low % 1 or high % 1):
            raise ValueError(f"int with min {self.min} and max {self.max}: give whole numbers")

    @property
    def bounds(self) -> tuple[float, float]:
        return (math.nan if self.min is None else self.min, math.nan if self.max is None else self.max)

    def fitted(self, value: float) -> Scalar:
        """Round to six digits within this range, so that text is short and reads back the same."""
        low, high = self.bounds
        if self.kind == "int":
            return int(min(high, max(low, round(value))))
        return float(min(high, max(low, float(f"{value:.6g}"))))

    @property
    def listed(self) -> list[Scalar] | None:
        """Return all values, or None if there are too many."""
        low, high = self.bounds
        if self.kind == "choice":
            return self.values
        if self.kind == "int" and high - low < MAX_LISTED:
            return list(range(int(low), int(high) + 1))
        return None


Space = dict[str, Dimension]


def check(space: Space) -> None:
    """Check that conditions refer to unconditional choices and their values.

    Raises:
        ValueError: all problems, one per line.
    """
    found = [] if space else ["space is empty: name at least one hyperparameter to search"]
    for name, dimension in space.items():
        for other, wanted in dimension.when.items():
            if other not in space or space[other].kind != "choice" or space[other].when:
                found.append(f"space.{name}.when: {other!r} is not an unconditional choice: name one")
            elif unknown := [value for value in wanted if value not in space[other].values]:
                found.append(
                    f"space.{name}.when: {other!r} is never {unknown}: take of {space[other].values}"
                )
    if found:
        raise ValueError("\n".join(found))


def ordered(space: Space) -> list[str]:
    """Order names, conditions first; not by a mapping's order, which KFP does not keep."""
    return sorted(space, key=lambda name: (bool(space[name].when), name))


def active(dimension: Dimension, values: Mapping[str, Scalar]) -> bool:
    """Tell whether a dimension is active with the ``values`` drawn so far."""
    return all(values.get(other) in wanted for other, wanted in dimension.when.items())


def grid(space: Space) -> Iterator[Values]:
    """Yield every configuration of a space of choices and short ints; none if there are too many."""
    names = ordered(space)
    lists = [space[name].listed for name in names]
    if any(values is None for values in lists) or math.prod(len(v or []) for v in lists) > MAX_LISTED:
        return
    seen = set()
    for combination in itertools.product(*(values or [] for values in lists)):
        values: Values = {}
        for name, value in zip(names, combination, strict=True):
            if active(space[name], values):
                values[name] = value
        if key(values) not in seen:
            seen.add(key(values))
            yield values


def text(value: Scalar) -> str:
    """Encode for Katib: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def read(space: Space, texts: Mapping[str, str]) -> Values:
    """Read values from ``texts``, without inactive ones; Katib has one for every dimension.

    Raises:
        ValueError: a dimension has no text, a text has no dimension, or a value is invalid.
    """
    if texts.keys() != space.keys():
        raise ValueError(f"values of {sorted(texts)} for a space of {sorted(space)}: give each its own")
    values: Values = {}
    for name in ordered(space):
        if active(space[name], values):
            values[name] = _scalar(space[name], name, texts[name])
    return values


def _scalar(dimension: Dimension, name: str, given: str) -> Scalar:
    if dimension.kind == "choice":
        for value in dimension.values:
            if text(value) == given:
                return value
        raise ValueError(f"{name}: {given!r} is none of {dimension.values}: take one of these")
    try:
        number = float(given)
    except ValueError as error:
        raise ValueError(f"{name}: {given!r} is no number: give one") from error
    low, high = dimension.bounds
    inside = min(high, max(low, number))  # exp(log(max)) may exceed max by rounding
    if not math.isclose(inside, number, rel_tol=1e-9) or (dimension.kind == "int" and number % 1):
        raise ValueError(f"{name}: {given} is not an {dimension.kind} from {low:g} to {high:g}: give one")
    return int(inside) if dimension.kind == "int" else inside


def key(values: Mapping[str, Scalar]) -> str:
    """Identify a configuration by its values, without the resource."""
    pairs = [[name, text(values[name])] for name in sorted(values)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:12]
