"""The training loop: one for fine-tuning, distillation, healing and trials."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from components.core import sigterm
from components.core.errors import DataError, Preempted
from components.core.recipe import Recipe
from components.training import adapters, models, recomputation, sharding
from components.training.batches import count_targets, micro_batches, plan_steps
from components.training.checkpoints import Checkpoints, Progress, assist
from components.training.compiling import Verdict
from components.training.packing import Packing, prove
from components.training.passes import Passes
from components.training.recomputation import Recomputation
from components.training.render import Rendered


class Outcome(NamedTuple):
    """What a run did, counted over its whole life, resumed parts included; seconds are this process's."""

    progress: Progress
    resumed_at_step: int
    resumed_tokens: int
    train_seconds: float
    """In forward, backward and optimizer; no saving, no start-up, no compiling."""
    train_cpu_seconds: float
    """CPU time of the same, all threads of all processes."""
    save_seconds: float
    evaluation_seconds: float
    """In the loop, for ``recipe.evaluations_in_loop``."""
    checkpoint_bytes: int
    optimizer_bytes: int
    saved_tensor_bytes: int | None
    """What autograd kept of this process's first micro-batch; None when it ran none or shards weights."""
    micro_batch_blocks: int
    """Fewer than the Recipe's where the device ran out of memory."""
    compile: Verdict
    recomputation: Recomputation | None
    """None where nothing is recomputed, weights are sharded, or one row does not fit without."""
    packing: Packing
    stopped: bool
    """``ends_here`` ended it before the budget was spent."""


def train(
    loss: nn.Module,
    data: Sequence[Rendered],
    recipe: Recipe,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    ends_here: Callable[[Progress], bool] = lambda progress: False,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    out_of_time: Callable[[float], bool] = lambda seconds: False,
    evaluate: Callable[[], float] | None = None,
) -> Outcome:
    """Train ``loss`` on ``data`` until the Recipe's budget is spent, from the newest checkpoint on.

    ``loss(ids, positions, targets)`` returns a sum over target tokens. Gradients are divided by the target
    tokens of the whole step, over all micro-batches and ranks, so that no grouping changes the result.
    ``ends_here`` is asked by the main process at the start and after every committed checkpoint;
    ``out_of_time`` after every step, with the seconds of another step and save: True saves at once.
    ``evaluate`` gives the ``valid_loss`` of the curve, ``recipe.evaluations_in_loop`` times.

    Raises:
        ValueError: weights that are to be trained later, and several processes; or nothing to evaluate.
        DataError: the loss is not finite (with the step).
        Preempted: SIGTERM came; a checkpoint is committed.
    """
    if recipe.frozen_until_share < 1 and accelerator.num_processes > 1:
        raise ValueError(
            f"recipe.frozen_until_share {recipe.frozen_until_share} over {accelerator.num_processes} "
            "processes: they would not share the gradients of what begins to train; use one process"
        )
    if recipe.evaluations_in_loop and evaluate is None:
        raise ValueError(
            f"recipe.evaluations_in_loop {recipe.evaluations_in_loop}: no valid split is scored here: give "
            "finetune one that is not empty, or leave it out"
        )
    packing = Packing(False, 0.0, "off: by the recipe")
    if recipe.packing:
        packing = prove(loss, data, recipe.block_length)
    if recipe.packing and not all(_on_every_rank(accelerator, packing.packed)):
        recipe = msgspec.structs.replace(recipe, packing=False)
    lengths = [len(rendered.ids) for rendered in data]
    steps = list(plan_steps(lengths, recipe))
    parts = recipe.evaluations_in_loop
    evaluated = {round(len(steps) * part / parts) for part in range(1, parts + 1)}
    sharded = sharding.strategy(recipe, accelerator) == "fsdp"
    if sharded:
        sharding.shard(loss, accelerator)
    optimizer = torch.optim.AdamW(
        models.trainable(loss).values(),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    start = checkpoints.resume(loss, optimizer, recipe.budget_tokens) or Progress(0, 0, 0, 0, [])
    frozen = Frozen(loss, recipe, start.tokens)
    recomputed = None
    if recipe.gradient_checkpointing and not sharded and start.step < len(steps):
        block = micro_batches(steps[start.step], data, lengths, recipe, rank=0, world=1)[0]
        with accelerator.autocast():
            recomputed = recomputation.measure(loss, block)
    wrapped = loss if sharded else accelerator.prepare(loss)
    optimizer = accelerator.prepare(optimizer)
    passes = Passes(loss, wrapped, data, steps, recipe, accelerator, start.compiled)
    progress, train_seconds, train_cpu_seconds, save_seconds, size = start, 0.0, 0.0, 0.0, 0
    evaluation_seconds = 0.0
    saved_at, saved_step, last_save_seconds = time.monotonic(), start.step, 0.0
    stopped = _agreed(ends_here, start, accelerator) and start.step < len(steps)
    wrapped.train()
    with sigterm.noted() as stopping, closing(passes):
        for step in [] if stopped else steps[start.step :]:
            passes.decide(step)
            began, cpu_began = time.monotonic(), time.process_time()
            rate = recipe.learning_rate * rate_share(recipe, (step.tokens_before + step.tokens_after) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            answer_tokens = count_targets(step, data)
            nats, padding_tokens = passes.run(step)
            norm = _update(wrapped, optimizer, recipe, accelerator)
            mean = float(accelerator.reduce(nats, reduction="sum")) / max(1, answer_tokens)
            if not (math.isfinite(mean) and math.isfinite(norm)):  # before such weights are committed
                raise DataError(
                    f"the loss is {mean} and its gradient norm {norm} at step {step.number}: lower "
                    f"recipe.learning_rate ({recipe.learning_rate}), or look at the examples of that step"
                )
            progress = Progress(
                step.number + 1,
                step.tokens_after,
                progress.answer_tokens + answer_tokens,
                progress.padding_tokens + padding_tokens,
                progress.curve,
                passes.verdict.compiled,
            )
            progress.curve.append(_record(step.tokens_after, mean, rate, norm))
            frozen.thaw_after(progress.tokens)
            train_seconds += time.monotonic() - began
            train_cpu_seconds += time.process_time() - cpu_began
            if evaluate and progress.step in evaluated:
                evaluating = time.monotonic()
                progress.curve[-1]["valid_loss"] = evaluate()
                wrapped.train()
                evaluation_seconds += time.monotonic() - evaluating
            due = time.monotonic() - saved_at >= recipe.save_every_seconds
            due |= out_of_time(time.monotonic() - began + last_save_seconds)
            due, preempted = _on_any_rank(accelerator, due, stopping())
            if due or preempted or step is steps[-1]:
                saving = time.monotonic()
                if accelerator.is_main_process:
                    size = checkpoints.save(loss, optimizer.optimizer, progress)
                elif sharded:
                    assist(loss, optimizer.optimizer)
                stopped = _agreed(ends_here, progress, accelerator) and step is not steps[-1]
                saved_at, saved_step = time.monotonic(), progress.step
                last_save_seconds = saved_at - saving
                save_seconds += last_save_seconds
            if preempted:
                raise Preempted(
                    f"SIGTERM after step {saved_step}: checkpoint committed, the same command goes on"
                )
            if accelerator.is_main_process:
                say(_line(progress, recipe, steps[-1].tokens_after, train_seconds, start.tokens))
            if stopped:
                break
    frozen.check()
    return Outcome(
        progress=progress,
        resumed_at_step=start.step,
        resumed_tokens=start.tokens,
        train_seconds=train_seconds,
        train_cpu_seconds=_over_ranks(train_cpu_seconds, accelerator),
        save_seconds=save_seconds,
        evaluation_seconds=evaluation_seconds,
        checkpoint_bytes=size,
        optimizer_bytes=_optimizer_bytes(optimizer.optimizer),
        saved_tensor_bytes=passes.saved_tensor_bytes,
        micro_batch_blocks=passes.micro_batch_blocks,
        compile=passes.verdict,
        recomputation=recomputed,
        packing=packing,
        stopped=stopped,
    )


class Frozen:
    """The weights of ``recipe.frozen``, until they are trained."""

    def __init__(self, loss: nn.Module, recipe: Recipe, tokens: int) -> None:
        self._loss, self._parts = loss, recipe.frozen
        share = recipe.frozen_until_share
        self._until_tokens = share * recipe.annealed_tokens if share < 1 else math.inf
        self._digest = adapters.frozen_digest(loss) if self._parts else ""
        self.thaw_after(tokens)

    def thaw_after(self, tokens: int) -> None:
        """Train them from here on, once so many tokens are trained."""
        if self._parts and tokens >= self._until_tokens:
            self.check()
            adapters.thaw(self._loss)
            self._parts = []

    def check(self) -> None:
        """Raises AssertionError when one has moved although it should not."""
        if self._parts and adapters.frozen_digest(self._loss) != self._digest:
            raise AssertionError(f"weights of {self._parts} moved although they are frozen")


def rate_share(recipe: Recipe, tokens: float) -> float:
    """Learning rate at ``tokens`` trained, as a share of the peak: linear warm-up, then the schedule to 0."""
    done = tokens / recipe.annealed_tokens
    if done < recipe.warmup_share:
        return done / recipe.warmup_share
    falling = min(1.0, (done - recipe.warmup_share) / max(1e-9, 1 - recipe.warmup_share))
    match recipe.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - falling
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * falling))


def _update(
    loss: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, accelerator: Accelerator
) -> float:
    """One optimizer step with the gradients as they are; their norm before clipping."""
    norm = accelerator.clip_grad_norm_(models.trainable(loss).values(), recipe.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(sharding.whole(norm))


def _agreed(ends_here: Callable[[Progress], bool], progress: Progress, accelerator: Accelerator) -> bool:
    """The main process's answer, on every rank: one that goes on alone would wait forever for the others."""
    answer = torch.zeros((), device=accelerator.device)
    if accelerator.is_main_process:
        answer += ends_here(progress)
    accelerator.wait_for_everyone()
    return bool(accelerator.reduce(answer, reduction="sum"))


def _over_ranks(value: float, accelerator: Accelerator) -> float:
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), reduction="sum"))


def _on_any_rank(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Each flag, true if it is on any rank: clocks and signals differ, and who saves alone waits for ever."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=accelerator.device))
    return [count > 0 for count in counts.tolist()]


def _on_every_rank(accelerator: Accelerator, *flags: bool) -> list[bool]:
    return [not anywhere for anywhere in _on_any_rank(accelerator, *(not flag for flag in flags))]


def _record(tokens: int, loss: float, rate: float, norm: float) -> dict[str, float]:
    return {"tokens": tokens, "loss": loss, "learning_rate": rate, "grad_norm": norm}


def _line(progress: Progress, recipe: Recipe, goal_tokens: int, seconds: float, tokens_before: int) -> str:
    """``42 %  430,080 of 1,000,000 tokens  loss 1.923  6,200 tokens/s  31 s left``."""
    speed = (progress.tokens - tokens_before) / max(seconds, 1e-9)
    left = (goal_tokens - progress.tokens) / max(speed, 1e-9)
    return (
        f"{progress.tokens / goal_tokens:.0%}  {progress.tokens:,} of {goal_tokens:,} tokens  "
        f"loss {progress.curve[-1]['loss']:.3f}  {speed:,.0f} tokens/s  {left:.0f} s left"
    )


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
