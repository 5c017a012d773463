"""Messages between a search on Katib and the pods of its trials."""

import msgspec

from deepcuts.components.core.bounds import Count
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.tune.space import Dimension

METRIC = "valid_loss"
"""Nats per answer token; also the metric's name in Katib."""
RESOURCE = "budget_tokens"
"""The parameter with a trial's budget."""


class TrialTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings shared by the trials of a search, and the values of one, filled in by Katib."""

    store: str
    search: str
    """Name of the search, derived from its inputs."""
    base: str
    """Digest of an input that the search uploaded to the store, like ``train`` and ``valid``."""
    train: str
    valid: str
    recipe: Recipe
    space: dict[str, Dimension]
    values: dict[str, str]
    """As texts, with the resource if the algorithm chooses one."""
    max_tokens: Count
    """Tokens of every trial's schedule, and its budget if the algorithm chooses none."""
    db_manager: str
    """Host and port of Katib's database manager."""


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pod of a trial, in the store from its start; without a receipt it is running or was lost."""

    pool: str
    begun_at: str
    """UTC, ISO 8601."""
    receipt: Receipt | None = None
    problem: str = ""


def attempts_prefix(search: str) -> str:
    """Return the prefix of a search's attempts: ``PREFIX/TRIAL/ANY.json``."""
    return f"searches/{search}/attempts/"
