"""Choose pool, strategy, micro-batch and checkpointing: try all, take the best that meets the deadline."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from deepcuts.components.core import pricing
from deepcuts.components.core.bounds import NonNegative, Whole
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan import placing, ranking, speed, teaching, ways
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.budget import Budget
from deepcuts.components.plan.memory import Load, Memory, logits_bytes, predict, saved_bytes
from deepcuts.components.plan.speed import SpeedEstimate

ATTENTION_PADDING = 1.1
"""Between 1 for equal lengths and the 1.15 that training/attention.py allows."""


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step measured with the given Recipe; zeros where nothing was measured."""

    pool: str = ""
    saved_bytes: Whole = 0
    """Bytes autograd kept of a full micro-batch, including the loss's part."""
    tokens_per_second: NonNegative = 0.0
    """On one device."""


class PlanTask(NamedTuple):
    """The training to run, and what is known about it."""

    shapes: Architecture
    recipe: Recipe
    answer_share: float
    """Share of tokens that carry loss."""
    activation_factor: float = 1.0
    """Measured activations / predicted ones."""
    utilisation: tuple[str, float] = ("", 0.0)
    """A measured device (``device``), and the share of its declared rate that it reached."""
    alongside: tuple[NodePool, ...] = ()
    """Pools that score models meanwhile; on the same nodes, training gets a smaller share of them."""
    copies: int = 1
    """Concurrent trainings on one node: the trials of a search."""
    teacher: Architecture | None = None
    """A model that is run on every token but not trained."""
    writes: bool = False
    """Whether its student writes answers during training."""
    single: bool = False
    """Whether training is a single process, as in ``distill``."""
    one_node: str = ""
    """Why training has to stay on one node; empty if it may take several."""

    @property
    def largest(self) -> Architecture:
        """Return the largest model of the run, which must fit for scoring."""
        if self.teacher and self.teacher.tree.weights > self.shapes.tree.weights:
            return self.teacher
        return self.shapes


class PlanOption(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run: whether it is possible, and why it was chosen or rejected."""

    pool: str
    strategy: str
    devices: int
    """On each node."""
    micro_batch_size: int
    gradient_checkpointing: bool | int
    memory: Memory
    room_bytes: int
    """Memory of one device, or training's share of a CPU node, divided by concurrent trainings."""
    estimate: SpeedEstimate | None
    """None if the pool has no declared rate."""
    nodes: int = 1
    reason: str = ""

    @property
    def name(self) -> str:
        kept = "recomputed" if self.gradient_checkpointing else "kept"
        rows = f"{self.micro_batch_size} row{'s' * (self.micro_batch_size > 1)}"
        many = f"{self.nodes} nodes x" if self.nodes > 1 else "x"
        return f"{self.pool} {self.strategy} {many}{self.devices}, {rows}, activations {kept}"

    @property
    def missing_bytes(self) -> int:
        return max(0, self.memory.total - self.room_bytes)


def calibrated(task: PlanTask, pools: Mapping[str, NodePool], measured: Measurement) -> PlanTask:
    """Return the task with activations and rate corrected by a measured step.

    Raises:
        ValueError: the measurement's pool is unknown or has no rate, or the figures cannot be true there.
    """
    if not (measured.saved_bytes or measured.tokens_per_second):
        return task
    if measured.pool not in pools:
        raise ValueError(f"calibrate.pool {measured.pool!r}: no such pool: take one of {', '.join(pools)}")
    pool = pools[measured.pool]
    if measured.saved_bytes:
        batch = load(task.recipe, bool(pool.accelerator), task.answer_share)
        kept = measured.saved_bytes - logits_bytes(task.shapes, task.recipe, batch)
        factor = kept / saved_bytes(task.shapes, task.recipe, batch)
        if factor <= 0:
            raise ValueError(
                f"calibrate.saved_bytes {measured.saved_bytes}: less than the loss alone keeps: measure a "
                "full micro-batch of this recipe, or correct answer_share"
            )
        task = task._replace(activation_factor=factor)
    if measured.tokens_per_second:
        if pool.flops_per_second is None:
            raise ValueError(
                f"calibrate.pool {pool.name!r} has no flops_per_second: declare it, then measure"
            )
        share = speed.utilisation(
            task.shapes, task.recipe, pool, task.answer_share, measured.tokens_per_second
        )
        task = task._replace(utilisation=(device(pool), share))
    return task


def device(pool: NodePool) -> str:
    """Return the scope of a measurement: all pools with the same accelerator, or a single CPU pool."""
    return pool.accelerator_model or pool.name


def load(recipe: Recipe, cuda: bool, answer_share: float) -> Load:
    """Return the Recipe's micro-batch; ``auto`` precision is bf16 on CUDA."""
    small = recipe.precision == "bf16" or (recipe.precision == "auto" and cuda)
    tokens = recipe.micro_batch_size * recipe.seq_len
    return Load(tokens, answer_share, ATTENTION_PADDING, 2 if small else 4)


def options(task: PlanTask, pools: Mapping[str, NodePool]) -> list[PlanOption]:
    """List all pools and strategies, activations kept or recomputed, with the largest micro-batch that fits.

    Raises:
        ValueError: the Recipe asks for 4 bits, and no pool has a device for them.
    """
    able = [pool for pool in pools.values() if pool.accelerator or task.recipe.base_precision != "nf4"]
    if not able:
        raise ValueError(
            f"recipe.base_precision nf4 needs a pool with an accelerator, here are {', '.join(pools)}: add "
            'one, or set it to "as-stored"'
        )
    return [
        _followed(_largest(task, pool, strategy, devices, nodes, checkpointing), pools)
        for pool in able
        for strategy, devices, nodes in ways.of(task, pool)
        for checkpointing in (False, task.recipe.gradient_checkpointing or True)
        if not checkpointing or task.shapes.tree.recomputes
    ]


def choose(
    found: list[PlanOption],
    deadline_hours: float,
    objective: str,
    barred: Mapping[str, str],
    budget: Budget | None = None,
) -> tuple[PlanOption, list[PlanOption]]:
    """Return (the best option within the deadline at p90 and the budget at p50, the others), with reasons.

    Options on ``barred`` pools cannot win; their reason says what barring them costs. For the cheapest,
    options without a price come last.

    Raises:
        ValueError: no option fits, has a rate, or meets the deadline or the budget, or a price is unknown.
    """
    placed = placing.allowed(found, barred, "the training")
    fitting = [option for option in placed if not option.missing_bytes]
    if not fitting:
        near = min(placed, key=lambda option: option.missing_bytes)
        raise ValueError(
            f"nothing fits: the nearest, {near.name}, needs {near.memory.total:,} bytes of "
            f"{near.room_bytes:,}: {near.missing_bytes:,} are missing"
        )
    timed = [option for option in fitting if option.estimate]
    if not timed:
        raise ValueError(f"{fitting[0].name} fits, but no such pool has a rate: give it flops_per_second")
    ready = [option for option in timed if not deadline_hours or ranking.late_hours(option) <= deadline_hours]
    if not ready:
        fastest = min(timed, key=ranking.late_hours)
        raise ValueError(
            f"deadline_hours {deadline_hours:g}: the fastest, {fastest.name}, takes "
            f"{ranking.late_hours(fastest):.2f} h (p90): allow that, lower recipe.budget_tokens (or "
            "epochs) or add a faster pool"
        )
    if budget:
        ready = _affordable(ready, budget)
    lowest = min(ranking.score(option, objective) for option in ready)
    alike = [option for option in ready if ranking.score(option, objective) <= lowest * ranking.ALIKE]
    best = min(alike, key=lambda option: (ranking.complication(option), ranking.score(option, objective)))
    others = [
        msgspec.structs.replace(
            option,
            reason=ranking.why_not(
                option, best, deadline_hours, objective, budget, barred.get(option.pool, "")
            ),
        )
        for option in found
        if option is not best
    ]
    return msgspec.structs.replace(best, reason=ranking.why(best, fitting, objective)), others


def _affordable(ready: list[PlanOption], budget: Budget) -> list[PlanOption]:
    """Return the options within the budget at p50; raises the errors of ``choose``."""
    costs = {option.name: budget.cost_usd(option.estimate) for option in ready if option.estimate}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    if not known:
        raise ValueError(
            f"pool {ready[0].pool!r} has no price, so budget_usd {budget.usd:g} cannot be kept: give it "
            "usd_per_hour, or set budget_usd to 0"
        )
    cheapest = min(known, key=lambda name: known[name])
    if known[cheapest] > budget.left_usd:
        raise ValueError(
            f"{budget}: the cheapest training, {cheapest}, takes ${known[cheapest]:.4g} (p50) and "
            f"${max(0.0, budget.left_usd):.4g} is left: raise budget_usd, or lower recipe.budget_tokens (or "
            "epochs)"
        )
    return [option for option in ready if known.get(option.name, float("inf")) <= budget.left_usd]


def nearest_change(task: PlanTask, pools: Mapping[str, NodePool]) -> str:
    """Return the smallest change that fits: shorter rows, then an adapter, then both."""
    lengths = [task.recipe.seq_len >> power for power in range(1, 16)]
    shorter: list[dict[str, Any]] = [{"seq_len": n, "length_phases": []} for n in lengths if n >= 64]
    adapter = {"method": "lora", "trainable_embeddings": "no"}
    adapters = [adapter, *(adapter | fields for fields in shorter)] if task.recipe.method == "full" else []
    for fields in [*shorter, *adapters]:
        changed = task._replace(recipe=msgspec.structs.replace(task.recipe, **fields))
        if any(not option.missing_bytes for option in options(changed, pools)):
            words = ", ".join(f"recipe.{name}: {value}" for name, value in fields.items() if value)
            return f"with {words} it fits"
    return "no recipe for this model fits: add a pool with more memory, or use a smaller base"


def _largest(
    task: PlanTask, pool: NodePool, strategy: str, devices: int, nodes: int, checkpointing: bool | int
) -> PlanOption:
    """Return the option with the largest micro-batch that fits, up to a device's share of a step."""
    rows = -(-task.recipe.tokens_per_step // (task.recipe.seq_len * devices * nodes))
    for size in sorted({rows, *(2**power for power in range(rows.bit_length()))}, reverse=True):
        changed = msgspec.structs.replace(
            task.recipe, micro_batch_size=size, gradient_checkpointing=checkpointing
        )
        option = _option(task._replace(recipe=changed), pool, strategy, devices, nodes)
        if not option.missing_bytes:
            break
    return option


def _followed(option: PlanOption, pools: Mapping[str, NodePool]) -> PlanOption:
    """Add the node of the task that follows a training over several nodes to its price."""
    if option.nodes == 1 or option.estimate is None:
        return option
    hourly, known = placing.follower(pools[option.pool], pools).usd_per_hour, option.estimate
    more = [pricing.usd(3600 * hours, hourly) for hours in (known.hours_p50, known.hours_p90)]
    paid = zip((known.usd_p50, known.usd_p90), more, strict=True)
    usd = [None if whole is None or own is None else whole + own for whole, own in paid]
    estimate = known._replace(usd_p50=usd[0], usd_p90=usd[1])
    return msgspec.structs.replace(option, estimate=estimate)


def _option(task: PlanTask, pool: NodePool, strategy: str, devices: int, nodes: int) -> PlanOption:
    cuda = bool(pool.accelerator)
    batch = load(task.recipe, cuda, task.answer_share)
    estimate = None
    if pool.flops_per_second is not None:
        measured, share = task.utilisation
        reached = share if measured == device(pool) else 0.0
        estimate = speed.estimate(
            task.shapes, task.recipe, pool, strategy, devices, task.answer_share, reached, nodes
        )
    memory = predict(task.shapes, task.recipe, batch, strategy, devices, cuda, task.activation_factor, nodes)
    if task.teacher:
        memory = teaching.memory(memory, task.teacher, batch)
        estimate = estimate and teaching.slower(estimate, task, task.teacher)
    return PlanOption(
        pool=pool.name,
        strategy=strategy,
        devices=devices,
        nodes=nodes,
        micro_batch_size=task.recipe.micro_batch_size,
        gradient_checkpointing=task.recipe.gradient_checkpointing,
        memory=memory,
        room_bytes=placing.room_bytes(pool, task.alongside) // task.copies,
        estimate=estimate,
    )
