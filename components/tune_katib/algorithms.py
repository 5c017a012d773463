"""Check which searches Katib 0.19 supports, without importing a cluster's client."""

import difflib

from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import Space, grid, text

ASHA = "asha"
KATIBS_OWN = ("bayesianoptimization", "random", "tpe")
"""Katib's algorithms, which train every configuration to the end."""
UNFIT = '"\\$'
"""Characters not allowed in values, which Katib puts into the Job's JSON without escaping."""
SPARE = 1.5
"""Trials if several run concurrently, as a multiple of those the rungs need: Katib requests work whenever a
slot is free, and if nothing may be promoted, a new configuration starts."""


def check(algorithm: str, space: Space) -> None:
    """Check that Katib 0.19 can search ``space`` with ``algorithm``.

    Raises:
        ValueError: unsupported settings, one per line, with the fix.
    """
    found = []
    if algorithm == "hyperband":
        found.append(
            "algorithm 'hyperband': Katib's own stops forever after its first rung, because its controller "
            "refuses a reply of another length than requested (kubeflow/katib issue 1389): give asha"
        )
    elif algorithm not in (ASHA, *KATIBS_OWN):
        known = [ASHA, *KATIBS_OWN]
        near = difflib.get_close_matches(algorithm, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        found.append(f"algorithm {algorithm!r} is unknown: {hint}")
    for name, dimension in space.items():
        low, _ = dimension.bounds
        if dimension.kind == "float" and algorithm == "bayesianoptimization" and low <= 0:
            found.append(
                f"space.{name}: Katib 0.19's bayesianoptimization draws floats on a log scale, which min "
                f"{low:g} does not allow: give a min above 0, make it a choice, or use asha"
            )
        bad = [v for v in dimension.values if any(c in UNFIT or not c.isprintable() for c in text(v))]
        if bad:
            found.append(
                f"space.{name}: Katib cannot carry {bad}: leave out {' '.join(UNFIT)} and line breaks"
            )
    if found:
        raise ValueError("\n".join(found))


def narrowed(search: Search, algorithm: str, space: Space) -> Search:
    """Limit the search to the size of a finite space, and to one rung for algorithms without rungs."""
    every = sum(1 for _ in grid(space))
    levels = search.levels if algorithm == ASHA else search.levels[-1:]
    fewer = min(search.configurations, every or search.configurations)
    return search._replace(levels=levels, brackets=min(search.brackets, len(levels)), configurations=fewer)
