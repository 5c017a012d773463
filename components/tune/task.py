"""Task: what a search on Katib and the pods of its trials tell each other."""

import msgspec

from deepcuts.components.core.bounds import Count
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.tune.space import Dimension

METRIC = "valid_loss"
"""Nats per answer token; also the metric's name in Katib."""
RESOURCE = "budget_tokens"
"""The parameter that says how far a trial trains."""


class TrialTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the trials of a search have in common, and the values of one as Katib fills them in."""

    store: str
    search: str
    """Name of the search, derived from its inputs."""
    base: str
    """Digest of an input that the search put into the store, as ``train`` and ``valid``."""
    train: str
    valid: str
    recipe: Recipe
    space: dict[str, Dimension]
    values: dict[str, str]
    """As texts, with the resource where the algorithm chooses one."""
    max_tokens: Count
    """What every trial's schedule anneals over, and its budget where nothing chooses one."""
    db_manager: str
    """Host and port of Katib's database manager."""


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pod of a trial, in the store from its start on; without a receipt it runs still, or was lost."""

    pool: str
    begun_at: str
    """UTC, ISO 8601."""
    receipt: Receipt | None = None
    problem: str = ""


def attempts_prefix(search: str) -> str:
    """Return where the attempts of a search are: ``PREFIX/TRIAL/ANY.json``."""
    return f"searches/{search}/attempts/"
