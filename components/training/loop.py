"""The training loop for fine-tuning, distillation, healing and trials."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from deepcuts.components.core import sigterm
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import tell
from deepcuts.components.core.recipe import SHARDED, Recipe
from deepcuts.components.training import (
    activation_checkpointing,
    memory,
    models,
    packing,
    pass_size,
    ranks,
    rates,
    sharding,
    sharing,
)
from deepcuts.components.training.activation_checkpointing import CheckpointingCost
from deepcuts.components.training.batches import OptimizerStep, count_targets, micro_batches, plan_steps
from deepcuts.components.training.checkpoints import Checkpoints, TrainingProgress
from deepcuts.components.training.compiling import CompileDecision
from deepcuts.components.training.forward_backward import ForwardBackward
from deepcuts.components.training.frozen import Frozen
from deepcuts.components.training.packing import Packing
from deepcuts.components.training.render import Rendered
from deepcuts.components.training.saving import Saver
from deepcuts.components.training.sharing import Sharing


class TrainingOutcome(NamedTuple):
    """Result of a run, counted over all of it, including resumed parts; seconds are this process's."""

    progress: TrainingProgress
    resumed_at_step: int
    resumed_tokens: int
    train_seconds: float
    """Time in forward, backward and optimizer, without waiting for saves, start-up and compiling."""
    train_cpu_seconds: float
    """CPU time of the same, over all threads of all processes, without uploads that run meanwhile."""
    save_seconds: float
    """Time training waited for saves; their uploads run in the background."""
    evaluation_seconds: float
    """Time in ``recipe.evaluations_in_loop``."""
    checkpoint_bytes: int
    optimizer_bytes: int
    saved_tensor_bytes: int | None
    """Bytes autograd kept of this process's first micro-batch; None if it ran none or weights are sharded."""
    peak_learning_rate: float
    """The recipe's, or the value chosen for ``auto``."""
    micro_batch_size: int
    """Rows of a pass; at most the Recipe's."""
    out_of_memory: bool
    """Whether passes were halved on the way, as memory ran out."""
    compile: CompileDecision
    checkpointing_cost: CheckpointingCost | None
    """None if nothing is recomputed, weights are sharded, or a row does not fit without recomputing."""
    packing: Packing
    sharing: Sharing
    stopped: bool
    """``ends_here`` ended it before the budget was spent."""


def train(
    loss: nn.Module,
    data: Sequence[Rendered],
    recipe: Recipe,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    ends_here: Callable[[TrainingProgress], bool] = lambda progress: False,
    say: Callable[[str], None] = tell,
    out_of_time: Callable[[float], bool] = lambda seconds: False,
    evaluate: Callable[[], float] | None = None,
) -> TrainingOutcome:
    """Train ``loss`` on ``data`` until the Recipe's budget is spent, resuming from the newest checkpoint.

    ``loss(ids, positions, targets)`` returns a sum over target tokens. Gradients are divided by the target
    tokens of the whole step, over all micro-batches and ranks, so that grouping does not change the result.
    The main process calls ``ends_here`` at the start and once a checkpoint is committed, which training does
    not wait for: True saves and ends. Every process calls ``out_of_time`` after every step, with the seconds
    of another step and save: True saves at once, and waits.
    ``evaluate`` gives the ``valid_loss`` of the curve, ``recipe.evaluations_in_loop`` times.

    Raises:
        ValueError: weights are to be unfrozen later, but there are several processes; or nothing to evaluate.
        DataError: the loss is not finite (names the step).
        Preempted: SIGTERM arrived; a checkpoint is committed.
    """
    _check(recipe, accelerator, evaluate)
    trainer = _Trainer(loss, data, recipe, accelerator, checkpoints, ends_here, out_of_time, evaluate)
    return trainer.run(say)


class _Trainer:
    """State of one run on one rank."""

    def __init__(
        self,
        loss: nn.Module,
        data: Sequence[Rendered],
        recipe: Recipe,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        ends_here: Callable[[TrainingProgress], bool],
        out_of_time: Callable[[float], bool],
        evaluate: Callable[[], float] | None,
    ) -> None:
        recipe, self._packing = packing.settle(loss, data, recipe, accelerator)
        self._data, self._accelerator = data, accelerator
        self._evaluate = evaluate
        self._steps = list(plan_steps([len(rendered.ids) for rendered in data], recipe))
        self._sharing = sharing.settle(loss, data, recipe, accelerator)
        recipe = self._recipe = pass_size.settle(loss, data, recipe, accelerator, self._sharing.shared)
        parts = recipe.evaluations_in_loop
        self._planned = {round(len(self._steps) * part / parts) for part in range(1, parts + 1)}
        sharded = sharding.strategy(recipe, accelerator) in SHARDED
        if sharded:
            sharding.shard(loss, recipe, accelerator)
        self._peak = rates.peak(loss, recipe)
        adamw = _adamw(loss, recipe, self._peak)
        self._start = checkpoints.resume(loss, adamw, recipe.budget_tokens) or TrainingProgress(
            0, 0, 0, 0, []
        )
        self._progress = self._start
        self._frozen = Frozen(loss, recipe, self._start.tokens)
        self._checkpointing_cost = None if sharded else self._measure_checkpointing(loss)
        self._wrapped = loss if sharded else accelerator.prepare(loss)
        self._optimizer = accelerator.prepare(adamw)
        self._passes = ForwardBackward(
            loss,
            self._wrapped,
            data,
            self._steps,
            recipe,
            accelerator,
            self._start.compiled,
            self._sharing.shared,
        )
        self._saver = Saver(
            loss, self._optimizer.optimizer, recipe, accelerator, checkpoints, ends_here, out_of_time
        )
        self._train_seconds = self._train_cpu_seconds = self._evaluation_seconds = 0.0

    def run(self, say: Callable[[str], None]) -> TrainingOutcome:
        """Take the remaining steps, or fewer if ``ends_here`` says so."""
        left = self._steps[self._start.step :]
        stopped = self._saver.ends(self._start) and bool(left)
        self._wrapped.train()
        with sigterm.noted() as stopping, closing(self._passes), closing(self._saver):
            for step in [] if stopped else left:
                self._passes.decide(step)
                began = time.monotonic()
                self._train_step(step)
                self._evaluate_where_planned()
                seconds, last = time.monotonic() - began, step is left[-1]
                stopped = self._saver.after(self._progress, seconds, stopping(), last) and not last
                if self._accelerator.is_main_process:
                    say(self._line())
                if stopped:
                    break
        self._frozen.check()
        return self._outcome(stopped)

    def _train_step(self, step: OptimizerStep) -> None:
        """Take one optimizer step.

        Raises:
            DataError: the loss or its gradient is not finite.
        """
        began, cpu_began = time.monotonic(), time.process_time()
        before, recipe = self._progress, self._recipe
        rate = self._peak * rates.rate_share(recipe, (step.tokens_before + step.tokens_after) / 2)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        answer_tokens = count_targets(step, self._data)
        nats, computed_tokens = self._passes.run(step)
        more_tokens = computed_tokens - (step.tokens_after - step.tokens_before)
        norm = _update(self._wrapped, self._optimizer, recipe, self._accelerator)
        mean = float(self._accelerator.reduce(nats, reduction="sum")) / max(1, answer_tokens)
        if not (math.isfinite(mean) and math.isfinite(norm)):  # before bad weights are committed
            raise DataError(
                f"the loss is {mean} and its gradient norm is {norm} at step {step.number}: lower "
                f"recipe.learning_rate ({self._peak}), or check the examples of that step"
            )
        self._progress = TrainingProgress(
            step.number + 1,
            step.tokens_after,
            before.answer_tokens + answer_tokens,
            before.padding_tokens + max(0, more_tokens),
            before.curve,
            self._passes.verdict.compiled,
            before.shared_tokens + max(0, -more_tokens),
        )
        record = {"tokens": step.tokens_after, "loss": mean, "learning_rate": rate, "grad_norm": norm}
        self._progress.curve.append(record)
        self._frozen.unfreeze_after(self._progress.tokens)
        self._train_seconds += time.monotonic() - began
        self._train_cpu_seconds += time.process_time() - cpu_began

    def _evaluate_where_planned(self) -> None:
        if self._evaluate and self._progress.step in self._planned:
            began = time.monotonic()
            self._progress.curve[-1]["valid_loss"] = self._evaluate()
            self._wrapped.train()
            self._evaluation_seconds += time.monotonic() - began

    def _measure_checkpointing(self, loss: nn.Module) -> CheckpointingCost | None:
        """Measure activation checkpointing on the first remaining step; None without it or without steps."""
        if not self._recipe.gradient_checkpointing or self._start.step >= len(self._steps):
            return None
        lengths = [len(rendered.ids) for rendered in self._data]
        step = self._steps[self._start.step]
        batch = micro_batches(step, self._data, lengths, self._recipe, rank=0, world=1)[0]
        with self._accelerator.autocast():
            return activation_checkpointing.measure(loss, batch)

    def _line(self) -> str:
        """Return ``42 %  430,080 of 1,000,000 tokens  loss 1.923  6,200 tokens/s  31 s left``."""
        progress, goal_tokens = self._progress, self._steps[-1].tokens_after
        speed = (progress.tokens - self._start.tokens) / max(self._train_seconds, 1e-9)
        left = (goal_tokens - progress.tokens) / max(speed, 1e-9)
        return (
            f"{progress.tokens / goal_tokens:.0%}  {progress.tokens:,} of {goal_tokens:,} tokens  "
            f"loss {progress.curve[-1]['loss']:.3f}  {speed:,.0f} tokens/s  {left:.0f} s left"
        )

    def _outcome(self, stopped: bool) -> TrainingOutcome:
        return TrainingOutcome(
            progress=self._progress,
            resumed_at_step=self._start.step,
            resumed_tokens=self._start.tokens,
            train_seconds=self._train_seconds,
            train_cpu_seconds=ranks.total(
                self._train_cpu_seconds - self._saver.background_cpu_seconds, self._accelerator
            ),
            save_seconds=self._saver.seconds,
            evaluation_seconds=self._evaluation_seconds,
            checkpoint_bytes=self._saver.size_bytes,
            optimizer_bytes=memory.optimizer_bytes(self._optimizer.optimizer),
            saved_tensor_bytes=self._passes.saved_tensor_bytes,
            peak_learning_rate=self._peak,
            micro_batch_size=self._passes.micro_batch_size,
            out_of_memory=self._passes.micro_batch_size < self._recipe.micro_batch_size,
            compile=self._passes.verdict,
            checkpointing_cost=self._checkpointing_cost,
            packing=self._packing,
            sharing=self._sharing,
            stopped=stopped,
        )


def _check(recipe: Recipe, accelerator: Accelerator, evaluate: Callable[[], float] | None) -> None:
    """Raise ValueError for settings this run does not support."""
    if recipe.frozen_until_ratio < 1 and accelerator.num_processes > 1:
        raise ValueError(
            f"recipe.frozen_until_ratio {recipe.frozen_until_ratio} over {accelerator.num_processes} "
            "processes: gradients of weights unfrozen later would not be shared; use one process"
        )
    if recipe.evaluations_in_loop and evaluate is None:
        raise ValueError(
            f"recipe.evaluations_in_loop {recipe.evaluations_in_loop}: no valid split is scored here: give "
            "finetune one that is not empty, or leave the setting out"
        )


def _adamw(loss: nn.Module, recipe: Recipe, peak: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        models.trainable(loss).values(),
        lr=peak,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _update(
    loss: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, accelerator: Accelerator
) -> float:
    """Take one optimizer step with the current gradients; return their norm before clipping."""
    norm = accelerator.clip_grad_norm_(models.trainable(loss).values(), recipe.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(sharding.full_tensor(norm))
