"""Estimate hours and dollars of a run from its operations and a pool's rates, as p50 and p90."""

from typing import NamedTuple

from deepcuts.components.core import pricing
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.memory import shards

UTILISATION = {True: {"p50": 0.30, "p90": 0.15}, False: {"p50": 0.8, "p90": 0.4}}
"""Share of the declared products per second that training reaches, by whether there is an accelerator; 0.4 to
0.55 is published for large models on A100 (docs/cuts/activation-checkpointing.md), small ones reach less. On
a CPU, 0.5 to 1.3 of 63 GFLOP/s per core were measured, more for wider models (tests/benchmarks/hours.py).
Uncalibrated, so a wide band."""
CALIBRATED_BAND = 1.15
"""p90 / p50 once a step was measured on such a device; the aim is a time within 15 %."""
KERNEL_SECONDS = {True: 5e-6, False: 2e-6}
"""Seconds to launch one operation, by whether it is on CUDA."""
KERNELS_PER_BLOCK = 90
"""Operations of one transformer block, forward and backward."""
OPTIMIZER_TRAFFIC_BYTES = 28
"""Bytes per trained weight: AdamW reads weight, gradient and two moments and writes three, in float32."""
START_SECONDS = {"p50": 60.0, "p90": 600.0}
"""Seconds to start: pod, image and weights; at worst, a node has to be created first."""
EXPOSED = {"p50": 0.5, "p90": 1.0}
"""Share of the communication that does not overlap with computation. Assumed."""
PREEMPTIONS_PER_HOUR = 0.1
"""Interruptions of a spot node if its pool gives none. Assumed: clouds publish no hourly rate."""
SPOT_REPEATED = 0.15
"""Share of a spot run's p90 spent on repeated work and waiting after preemptions. Assumed."""


class SpeedEstimate(NamedTuple):
    seconds_per_step: float
    """At p50."""
    hours_p50: float
    hours_p90: float
    usd_p50: float | None
    """None if the pool's price is unknown."""
    usd_p90: float | None


def estimate(
    architecture: Architecture,
    recipe: Recipe,
    pool: NodePool,
    strategy: str,
    devices: int,
    answer_share: float,
    measured_utilisation: float,
    nodes: int = 1,
) -> SpeedEstimate:
    """Estimate hours and dollars of the Recipe's budget on ``nodes`` of ``pool``, which are paid for whole.

    ``devices`` are those of one node. ``measured_utilisation`` 0 means not measured. Half of the
    communication overlaps with computation at p50, none at p90.
    """
    assert pool.flops_per_second is not None
    processes = nodes * devices
    passes, rows = _passes(recipe, processes), _rows(recipe)
    busiest = -(-rows // processes) / rows  # above 1 / processes if rows do not divide evenly
    work = step_flops(architecture, recipe, answer_share) * busiest
    launches = passes * architecture.tree.layers * KERNELS_PER_BLOCK * KERNEL_SECONDS[bool(pool.accelerator)]
    traffic = _traffic_seconds(architecture, recipe, pool, shards(strategy, devices, nodes))
    talk = communication_seconds(architecture, recipe, pool, strategy, devices, nodes, passes)
    steps = recipe.budget_tokens / recipe.tokens_per_step
    seconds = {}
    for quantile, share in UTILISATION[bool(pool.accelerator)].items():
        if measured_utilisation:
            share = measured_utilisation / (CALIBRATED_BAND if quantile == "p90" else 1)
        compute = work / (pool.flops_per_second * share)
        busy = max(compute, launches) + traffic
        seconds[quantile] = steps * (busy + talk * EXPOSED[quantile])
    if pool.spot:
        lost = nodes * lost_to_preemption(pool, recipe)  # all wait for the one that is taken
        seconds = {"p50": seconds["p50"] * (1 + lost), "p90": seconds["p90"] * (1 + lost + SPOT_REPEATED)}
    held = {quantile: seconds[quantile] + START_SECONDS[quantile] for quantile in seconds}
    hours = {quantile: of / 3600 for quantile, of in held.items()}
    usd = {quantile: pricing.usd(nodes * of, pool.usd_per_hour) for quantile, of in held.items()}
    return SpeedEstimate(seconds["p50"] / steps, hours["p50"], hours["p90"], usd["p50"], usd["p90"])


def preemptions_per_second(pool: NodePool) -> float:
    """Return the rate at which nodes of ``pool`` are taken away; 0 if it is not a spot pool."""
    rate = PREEMPTIONS_PER_HOUR if pool.preemptions_per_hour is None else pool.preemptions_per_hour
    return rate / 3600 if pool.spot else 0.0


def lost_to_preemption(pool: NodePool, recipe: Recipe) -> float:
    """Return the expected seconds lost to preemption per second of training on a spot node.

    Each costs the work since the last checkpoint, on average half the time between two, and a start.
    """
    return preemptions_per_second(pool) * (recipe.save_every_seconds / 2 + START_SECONDS["p50"])


def utilisation(
    architecture: Architecture,
    recipe: Recipe,
    pool: NodePool,
    answer_share: float,
    tokens_per_second: float,
) -> float:
    """Return the share of the pool's rated speed at which ``estimate`` matches a measured speed.

    Raises:
        ValueError: the optimizer's memory traffic alone takes that long.
    """
    assert pool.flops_per_second is not None
    seconds = recipe.tokens_per_step / tokens_per_second
    traffic = _traffic_seconds(architecture, recipe, pool, 1)
    if seconds <= traffic:
        raise ValueError(
            f"calibrate.tokens_per_second {tokens_per_second:g}: a step takes {seconds:.3g} s, but at "
            f"memory_bytes_per_second of pool {pool.name!r} its optimizer alone takes {traffic:.3g}: "
            "correct one of them"
        )
    return step_flops(architecture, recipe, answer_share) / (seconds - traffic) / pool.flops_per_second


def scoring_seconds(
    architecture: Architecture, flops_per_second: float, cuda: bool, tokens: int
) -> dict[str, float]:
    """Return the seconds (p50, p90) of scoring ``tokens``, each with a loss, at a declared rate."""
    tree = architecture.tree
    work = 2 * tokens * (tree.matmul_weights + tree.vocabulary * tree.width)
    return {name: work / (flops_per_second * share) for name, share in UTILISATION[cuda].items()}


def step_flops(architecture: Architecture, recipe: Recipe, answer_share: float) -> float:
    """Count the operations of one optimizer step on all devices together."""
    return flops_per_token(architecture, recipe, answer_share) * recipe.tokens_per_step


def flops_per_token(architecture: Architecture, recipe: Recipe, answer_share: float) -> float:
    """Estimate the operations per token, forward and backward, including recomputation.

    Forward takes 2 per weight; backward 2 for the inputs' gradient and 2 more for trained weights, and none
    below the lowest trained block. The head runs only at answer tokens. Attention is causal, so over half a
    row, and as if one example filled it; many short ones cost less.
    """
    what, tree = architecture.profile(recipe), architecture.tree
    head = answer_share * tree.vocabulary * tree.width
    attention = tree.attention_width * recipe.seq_len
    full, upper = recipe.method == "full", recipe.trained_of(tree.layers) / max(1, tree.layers)
    blocks = tree.matmul_weights * (2 + (4 if full else 2) * upper) + (1 + 2 * upper) * 2 * attention
    adapter = 0 if full else 6 * what.adapter_weights
    again = (2 * tree.matmul_weights + 2 * attention) * recomputed_share(architecture, recipe)
    return blocks + head * (6 if what.embeddings else 4) + adapter + again


def recomputed_share(architecture: Architecture, recipe: Recipe) -> float:
    """Return the share of the blocks whose forward pass is repeated."""
    every = int(recipe.gradient_checkpointing)
    layers = architecture.tree.layers
    return -(-recipe.trained_of(layers) // every) / layers if every and layers else 0.0


def communication_bytes(
    architecture: Architecture, recipe: Recipe, strategy: str, devices: int, passes: int
) -> float:
    """Return the bytes that a device sends per step to the others of a ring.

    DDP reduces gradients once (2 x trained); FSDP gathers all weights twice per pass and scatters
    gradients once per pass (3 x parameters). Rings send (n - 1) / n of it.
    """
    trained = architecture.profile(recipe).trained_weights
    ring = (devices - 1) / devices
    match strategy:
        case "ddp":
            return 2 * 4 * trained * ring
        case "fsdp":
            return passes * 4 * (2 * max(architecture.tree.weights, trained) + trained) * ring
        case _:
            return 0.0


def communication_seconds(
    architecture: Architecture,
    recipe: Recipe,
    pool: NodePool,
    strategy: str,
    devices: int,
    nodes: int,
    passes: int,
) -> float:
    """Return the seconds per step that communication takes, without overlap.

    A ring over several nodes leaves each node once, at the network's speed if that is lower. HSDP keeps
    gathering and scattering within a node, and then the node's copies reduce their gradients as DDP does.
    """
    inside = pool.interconnect_bytes_per_second or float("inf")
    if nodes == 1:
        return communication_bytes(architecture, recipe, strategy, devices, passes) / inside
    across = pool.network_bytes_per_second
    assert across is not None
    if strategy == "hsdp":
        within = communication_bytes(architecture, recipe, "fsdp", devices, passes) / inside
        return within + communication_bytes(architecture, recipe, "ddp", nodes, passes) / across
    talk = communication_bytes(architecture, recipe, strategy, nodes * devices, passes)
    return talk / (min(inside, across) if devices > 1 else across)


def _rows(recipe: Recipe) -> int:
    return -(-recipe.tokens_per_step // recipe.seq_len)


def _passes(recipe: Recipe, processes: int) -> int:
    return -(-_rows(recipe) // (recipe.micro_batch_size * processes))


def _traffic_seconds(architecture: Architecture, recipe: Recipe, pool: NodePool, shards: int) -> float:
    if pool.memory_bytes_per_second is None:
        return 0.0
    updated = OPTIMIZER_TRAFFIC_BYTES * architecture.profile(recipe).trained_weights / shards
    return updated / pool.memory_bytes_per_second
