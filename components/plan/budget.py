"""Budget: the dollars a run may cost, and what is left of them for training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deepcuts.components.core import pricing
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.ledger.charges import Charge
from deepcuts.components.plan.speed import SpeedEstimate

RESERVE_SHARE = 0.1
"""Share of a run's budget kept for the tasks after training (scoring, quantizing, gates), on cheap nodes."""


class Budget(NamedTuple):
    usd: float
    """For the whole run."""
    spent_usd: float
    """By the tasks before training."""
    reserved_usd: float
    """For the tasks after training."""
    beside_usd_per_hour: float
    """Price of the watcher's node, which is paid for as long as training lasts."""

    @property
    def left_usd(self) -> float:
        """Return the dollars left for training."""
        return self.usd - self.spent_usd - self.reserved_usd

    def cost_usd(self, training: SpeedEstimate) -> float | None:
        """Return the cost of a training at p50, including its watcher; None if a price is unknown."""
        if training.usd_p50 is None:
            return None
        return training.usd_p50 + pricing.usd(training.hours_p50 * 3600, self.beside_usd_per_hour)

    def seconds(self, training: SpeedEstimate) -> float:
        """Return the whole seconds of training that the budget pays for; 0 if training costs nothing."""
        cost = self.cost_usd(training)
        assert cost is not None
        return max(1.0, self.left_usd / cost * training.hours_p50 * 3600 // 1) if cost else 0.0

    def __str__(self) -> str:
        return (
            f"budget_usd {self.usd:.4g}, of which ${self.spent_usd:.4g} is spent and "
            f"${self.reserved_usd:.4g} kept for the steps after training"
        )


def budget(
    usd: float, reserve_share: float, before: Sequence[Charge], watcher: str, pools: Mapping[str, NodePool]
) -> Budget | None:
    """Return the Budget after the tasks ``before``; None if ``usd`` is 0, which means no limit.

    Args:
        reserve_share: Share kept for the tasks after training.
        watcher: Pool of the task that runs as long as training; empty for none.

    Raises:
        ValueError: a price or a charge is unknown, and so the rest of the budget.
    """
    if not usd:
        return None
    unknown = [f"{row.task}: {row.unknown_because}" for row in before if row.usd is None]
    if unknown:
        raise ValueError(
            f"budget_usd {usd:g}: the amount spent is unknown ({'; '.join(unknown)}): price those pools in "
            "nodepools, or set budget_usd to 0"
        )
    if watcher and watcher not in pools:
        raise ValueError(f"no node pool {watcher!r}: take one of {', '.join(pools)}")
    hourly = pools[watcher].usd_per_hour if watcher else 0.0
    if hourly is None:
        raise ValueError(
            f"pool {watcher!r} has no price, so budget_usd {usd:g} cannot be kept: give it usd_per_hour, "
            "or set budget_usd to 0"
        )
    spent = sum(row.usd or 0.0 for row in before)
    return Budget(usd, spent, reserve_share * usd, hourly)
