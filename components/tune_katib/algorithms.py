"""Which searches Katib 0.19 can do, known before anything of a cluster is imported."""

import difflib

from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import Space, grid, text

ASHA = "asha"
KATIBS_OWN = ("bayesianoptimization", "random", "tpe")
"""Katib's algorithms, which train every configuration to the end."""
UNFIT = '"\\$'
"""Characters that a value may not have: Katib puts it into the JSON of the Job as it is."""
SPARE = 1.5
"""Trials when several run at a time, as a multiple of those that the rungs need: Katib asks for work whenever
a slot is free, even while nothing may be promoted, and then a new configuration starts."""


def check(algorithm: str, space: Space) -> None:
    """Check that Katib 0.19 can search ``space`` with ``algorithm``.

    Raises:
        ValueError: everything that it cannot do, one per line, with the fix.
    """
    found = []
    if algorithm == "hyperband":
        found.append(
            "algorithm 'hyperband': Katib's own stops for ever after its first rung, because its controller "
            "refuses a reply of another length than it asked for (kubeflow/katib issue 1389): give asha"
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
                f"space.{name}: Katib 0.19's bayesianoptimization draws every float on a logarithm, and min "
                f"{low:g} has none: give a min above 0, make it a choice, or take asha"
            )
        bad = [v for v in dimension.values if any(c in UNFIT or not c.isprintable() for c in text(v))]
        if bad:
            found.append(
                f"space.{name}: Katib cannot carry {bad}: leave out {' '.join(UNFIT)} and line breaks"
            )
    if found:
        raise ValueError("\n".join(found))


def narrowed(search: Search, algorithm: str, space: Space) -> Search:
    """Limit the search to what a finite space holds, and to one rung for algorithms without rungs."""
    every = sum(1 for _ in grid(space))
    levels = search.levels if algorithm == ASHA else search.levels[-1:]
    fewer = min(search.configurations, every or search.configurations)
    return search._replace(levels=levels, brackets=min(search.brackets, len(levels)), configurations=fewer)
