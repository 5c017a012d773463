"""Choose where to score models: the memory it takes, and the cheapest pool.

``watch`` runs as long as training, so it goes where an hour is cheapest, without accelerators if possible, as
it could otherwise block the training it waits for. The scores of ``evaluate`` and ``judge`` are compared, so
they share one pool: different devices compute in different precisions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from deepcuts.components.core import pods, pricing
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.plan import placing, ranking, speed
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.memory import CPU_PROCESS_BYTES, CUDA_CONTEXT_BYTES, FP32
from deepcuts.components.quantize import served

BATCH_TOKENS, LOGIT_BYTES = 16_384, 4 * 2**30
"""Limits of a forward pass, copied from ``training/scoring.py``, which needs torch; a test compares them."""
CORE_FLOPS = 6.3e10
"""float32 products per second and core, measured on AVX2; for llama.cpp on nodes with accelerators."""
BF16 = 2
Quantizes = Literal["no", "cpu", "gpu"]


class ScoringWork(NamedTuple):
    """What a run scores."""

    tokens: int
    """Maximum tokens of one pass over the examples."""
    quantizes: Quantizes
    """Whether formats are tried as well, in llama.cpp (cpu) or PyTorch (gpu)."""

    @property
    def passes(self) -> tuple[int, int]:
        """Return the passes over the examples (in PyTorch, in llama.cpp).

        Before and after training; with formats, also the reference, each format, and the served model.
        """
        return {"no": (2, 0), "cpu": (3, 2 + len(served.GGUF)), "gpu": (4 + len(served.SERVED_BY["gpu"]), 0)}[
            self.quantizes
        ]


class ScoringLoad(NamedTuple):
    """Bytes that a task holds at its peak."""

    host: int
    device: int
    """0 without an accelerator."""


class ScoringOption(msgspec.Struct, frozen=True, kw_only=True):
    """One pool to score on, and why it was chosen or not."""

    pool: str
    load: ScoringLoad
    missing_bytes: int
    hours_p50: float | None
    """None if the pool has no declared rate."""
    hours_p90: float | None
    usd_p50: float | None
    usd_p90: float | None
    reason: str = ""


def work(max_examples: int, max_tokens: int, candidates: Sequence[str], serve_on: str) -> ScoringWork:
    """Return what a run scores: at most ``max_examples`` of ``max_tokens``, and the formats it tries.

    Raises:
        ValueError: ``serve_on`` is neither cpu nor gpu.
    """
    formats = served.wanted(candidates, serve_on)
    if not formats:
        return ScoringWork(max_examples * max_tokens, "no")
    return ScoringWork(max_examples * max_tokens, "cpu" if set(formats) & set(served.GGUF) else "gpu")


def load(
    shapes: Architecture, pool: NodePool, answer_share: float, quantizes: Quantizes = "no"
) -> ScoringLoad:
    """Return the bytes of scoring on ``pool``: weights, a block's results, logits and a copy.

    On a CPU, all of it is float32. On an accelerator, weights are bfloat16, after the node has loaded them as
    stored. A format is made from a second copy in float32 (PyTorch), or held in llama.cpp together with the
    F16 it is compared with, at 3 bytes per weight.
    """
    tree = shapes.tree
    tokens = min(BATCH_TOKENS, LOGIT_BYTES // (2 * FP32 * tree.vocabulary))
    block = tokens * tree.block_weights / tree.width
    logits = 2 * FP32 * tokens * answer_share * tree.vocabulary
    second = {"no": 0, "cpu": 3, "gpu": FP32}[quantizes] * tree.weights
    if not pool.accelerator:
        return ScoringLoad(round(CPU_PROCESS_BYTES + FP32 * (tree.weights + block) + logits + second), 0)
    on_device = (1 + (quantizes == "gpu")) * tree.weights + block
    host = CPU_PROCESS_BYTES + stored_bytes(shapes) + second
    return ScoringLoad(round(host), round(CUDA_CONTEXT_BYTES + BF16 * on_device + logits))


def stored_bytes(shapes: Architecture) -> int:
    """Return the bytes of the weights as stored, by their config."""
    return (BF16 if shapes.stored_half else FP32) * shapes.tree.weights


def choose(
    shapes: Architecture,
    pools: Mapping[str, NodePool],
    barred: Mapping[str, str],
    wanted: ScoringWork,
    answer_share: float,
    objective: str,
) -> tuple[ScoringOption, list[ScoringOption]]:
    """Return (where evaluate and judge go, the other pools), the first of those that cost about the same.

    Raises:
        ValueError: the model is too large for all of them.
    """
    found = [_option(shapes, pool, wanted, answer_share) for pool in pools.values()]
    fitting = _fitting(found, barred)

    def score(option: ScoringOption) -> float:
        value = option.usd_p50 if objective == ranking.CHEAPEST else option.hours_p50
        return float("inf") if value is None else value

    return _first(found, fitting, score, barred, objective)


def choose_watch(
    shapes: Architecture, pools: Mapping[str, NodePool], barred: Mapping[str, str], answer_share: float
) -> tuple[ScoringOption, list[ScoringOption]]:
    """Return (where the watcher goes, the other pools): without accelerator if possible, then the cheapest.

    Raises:
        ValueError: the model is too large for all of them.
    """
    found = [_option(shapes, pool, ScoringWork(0, "no"), answer_share) for pool in pools.values()]
    fitting = _fitting(found, barred)
    plain = [option for option in fitting if not pools[option.pool].accelerator]

    def score(option: ScoringOption) -> float:
        hourly = pools[option.pool].usd_per_hour
        return float("inf") if hourly is None else hourly

    return _first(found, plain or fitting, score, barred, "cheapest by the hour")


def _option(shapes: Architecture, pool: NodePool, wanted: ScoringWork, answer_share: float) -> ScoringOption:
    needed = load(shapes, pool, answer_share, wanted.quantizes)
    missing = needed.host - pods.NODE_SHARE * pool.memory_bytes
    if pool.accelerator:
        missing = max(missing, needed.device - pool.accelerator_memory_bytes)
    found = seconds(shapes, pool, wanted)
    hours: list[float | None] = [None, None]
    if found:
        hours = [sum(each) / 3600 for each in zip(*found, strict=True)]
    usd = [None if each is None else pricing.usd(3600 * each, pool.usd_per_hour) for each in hours]
    return ScoringOption(
        pool=pool.name,
        load=needed,
        missing_bytes=max(0, round(missing)),
        hours_p50=hours[0],
        hours_p90=hours[1],
        usd_p50=usd[0],
        usd_p90=usd[1],
    )


def seconds(
    shapes: Architecture, pool: NodePool, wanted: ScoringWork
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the seconds (p50, p90) of evaluating and of judging on ``pool``; None if it has no rate.

    On a spot pool each preemption costs half of a pod's work, and a start.
    """
    if pool.flops_per_second is None:
        return None
    torch_passes, llama_passes = wanted.passes
    own = speed.scoring_seconds(shapes, pool.flops_per_second, bool(pool.accelerator), wanted.tokens)
    rate = CORE_FLOPS * pool.cpu_cores if pool.accelerator else pool.flops_per_second
    llama = speed.scoring_seconds(shapes, rate, False, wanted.tokens)

    def held(torch: int, in_llama: int) -> tuple[float, ...]:
        found = []
        for name, start in speed.START_SECONDS.items():
            busy = torch * own[name] + in_llama * llama[name]
            lost = speed.preemptions_per_second(pool) * (busy / 2 + start)
            found.append(start + busy * (1 + lost))
        return tuple(found)

    return held(1, 0), held(torch_passes - 1, llama_passes)


def _fitting(found: Sequence[ScoringOption], barred: Mapping[str, str]) -> list[ScoringOption]:
    """Return the pools that hold the model and may run it; raises the errors of ``choose``."""
    allowed = placing.allowed(found, barred, "model scoring")
    fitting = [option for option in allowed if not option.missing_bytes]
    if not fitting:
        near = min(allowed, key=lambda option: option.missing_bytes)
        raise ValueError(
            f"no node pool has memory for model scoring: on the nearest, {near.pool}, {near.missing_bytes:,} "
            "bytes are missing: add a pool with more memory, use a smaller base, or set "
            "quantize_candidates to [off] if formats are tried"
        )
    return fitting


def _first(
    found: Sequence[ScoringOption],
    fitting: Sequence[ScoringOption],
    score: Callable[[ScoringOption], float],
    barred: Mapping[str, str],
    aim: str,
) -> tuple[ScoringOption, list[ScoringOption]]:
    lowest = min(map(score, fitting))
    best = next(option for option in fitting if score(option) <= lowest * ranking.ALIKE)
    others = []
    for option in found:
        if option is best:
            continue
        if option.missing_bytes:
            why = f"does not fit: {option.missing_bytes / ranking.GIB:.2f} GiB are missing"
        elif option.pool in barred:
            why = barred[option.pool]
        elif score(option) == float("inf"):
            why = "unknown price or speed"
        elif option not in fitting:
            why = "it has an accelerator, which training may need"
        else:
            why = f"not the {aim}: {score(option) / lowest - 1:+.1%}" if lowest else f"not the {aim}"
        others.append(msgspec.structs.replace(option, reason=why))
    return msgspec.structs.replace(best, reason=f"the {aim} of {len(fitting)} that fit"), others
