"""Add a teacher's weights, logits, forward pass and written answers to the estimates of a training."""

from typing import TYPE_CHECKING

from deepcuts.components.plan import speed
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.memory import FP32, Load, Memory
from deepcuts.components.plan.speed import SpeedEstimate

if TYPE_CHECKING:
    from deepcuts.components.plan.choice import PlanTask

WRITING = 2.2
"""CPU time of a student that writes over that of reading the same: SmolLM2-135M, 11 questions of banking77
and answers of 8 tokens, one thread, measured once. Longer answers take more: each token reads all weights."""


def memory(alone: Memory, teacher: Architecture, batch: Load) -> Memory:
    """Return ``alone`` plus the teacher's weights in compute precision and two copies of its logits."""
    logits = 2 * FP32 * batch.tokens * batch.answer_share * teacher.tree.vocabulary
    weights = batch.compute_bytes * teacher.tree.weights
    return alone._replace(weights=alone.weights + round(weights), working=alone.working + round(logits))


def slower(alone: SpeedEstimate, task: "PlanTask", teacher: Architecture) -> SpeedEstimate:
    """Return the estimate for a student whose teacher is run on every token, and that may write answers."""
    again = _forward(teacher, task) + task.writes * WRITING * _forward(task.shapes, task)
    longer = 1 + again / speed.flops_per_token(task.shapes, task.recipe, task.answer_share)
    starts = (speed.START_SECONDS[name] / 3600 for name in ("p50", "p90"))  # of the pod, without a teacher
    before = alone.hours_p50, alone.hours_p90
    hours = [start + (each - start) * longer for each, start in zip(before, starts, strict=True)]
    paid = zip((alone.usd_p50, alone.usd_p90), hours, before, strict=True)
    usd = [None if each is None else each * now / then for each, now, then in paid]
    return SpeedEstimate(alone.seconds_per_step * longer, *hours, *usd)


def _forward(architecture: Architecture, task: "PlanTask") -> float:
    """Return the operations of a token in a forward pass, the head at answers only."""
    tree = architecture.tree
    return 2 * (tree.matmul_weights + task.answer_share * tree.vocabulary * tree.width)
