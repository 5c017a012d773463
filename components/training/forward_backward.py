"""Run a step's forward and backward passes in micro-batches, compiled if it pays off."""

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from deepcuts.components.core.long_calls import working
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import compiling, models, prefixes, sharding
from deepcuts.components.training.batches import MicroBatch, OptimizerStep, count_targets, micro_batches
from deepcuts.components.training.blocks import saved_tensor_bytes
from deepcuts.components.training.compiling import CompileDecision
from deepcuts.components.training.render import Rendered

WARM_STEPS = 3
"""Number of eager steps; the fastest gives the time of a step."""


class ForwardBackward:
    """This rank's passes over a loss; ``wrapped`` is accelerate's version of it for several ranks.

    ``compiled`` is the decision from before the run was resumed, None if there was none. ``shared`` tells
    whether shared prefixes are computed once (``sharing.py``).
    """

    def __init__(
        self,
        loss: nn.Module,
        wrapped: nn.Module,
        data: Sequence[Rendered],
        steps: Sequence[OptimizerStep],
        recipe: Recipe,
        accelerator: Accelerator,
        compiled: bool | None,
        shared: bool,
    ) -> None:
        self._sharded = sharding.is_sharded(loss)
        self.verdict = (
            CompileDecision(False, "not tried with sharded weights")
            if self._sharded
            else compiling.before(recipe.compile, compiled)
        )
        self.saved_tensor_bytes: int | None = None
        """Bytes autograd kept of the first micro-batch; None with sharded weights, as it keeps those, too."""
        self.micro_batch_size = recipe.micro_batch_size
        self._loss, self._wrapped, self._data, self._steps = loss, wrapped, data, steps
        self._lengths = [len(rendered.ids) for rendered in data]
        self._recipe, self._accelerator, self._shared = recipe, accelerator, shared
        self._insist = recipe.compile == "on" or bool(compiled)
        self._step_seconds: list[float] = []

    def decide(self, step: OptimizerStep) -> None:
        """Decide before a step whether to compile, once cost and gain are known."""
        if self.verdict.compiled is None and len(self._step_seconds) == (0 if self._insist else WARM_STEPS):
            self._try_compiled(len(self._steps) - step.number)

    def run(self, step: OptimizerStep) -> tuple[Tensor, int]:
        """Compute a step's gradients; return (nats on this rank, computed tokens on all ranks)."""
        began = time.perf_counter()
        while True:
            try:
                done = self._accumulate(step)
                break
            except torch.cuda.OutOfMemoryError as error:
                self._halve(error)
            self._forget_gradients()  # not in the except clause, whose traceback keeps every activation alive
            torch.cuda.empty_cache()
        self._step_seconds.append(time.perf_counter() - began)
        return done

    def close(self) -> None:
        """Make the loss eager again, for scoring and saving."""
        compiling.uncompile_blocks(self._loss)

    def _accumulate(self, step: OptimizerStep, synchronise: bool = True) -> tuple[Tensor, int]:
        # dropout depends only on step and rank, so a resumed run draws the same as an uninterrupted one
        torch.manual_seed(_step_seed(self._recipe.seed, step.number, self._accelerator.process_index))
        batches, computed_tokens = self._micro_batches(step)
        answer_tokens = max(1, count_targets(step, self._data))
        world = self._accelerator.num_processes
        total = torch.zeros((), device=self._accelerator.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            if self._sharded:  # once a step, not once a pass
                sharding.reduce_between_copies(self._wrapped, last)
            with nullcontext() if last and synchronise else self._accelerator.no_sync(self._wrapped):
                nats = self._forward(batch)
                # DDP averages gradients over ranks; the step's loss is a sum over them
                self._accelerator.backward(nats * (world / answer_tokens))
            total += nats.detach()
        return total, computed_tokens

    def _micro_batches(self, step: OptimizerStep) -> tuple[list[MicroBatch], int]:
        """Return this rank's passes of a step, and the tokens of all ranks."""
        recipe = msgspec.structs.replace(self._recipe, micro_batch_size=self.micro_batch_size)
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        if self._shared:
            trees = prefixes.split(step.examples, self._data, prefixes.most_tokens(recipe), world)
            batches = [prefixes.lay(tree, self._data) for tree in trees[rank::world]]
            return batches, sum(tree.tokens for tree in trees)
        batches = micro_batches(step, self._data, self._lengths, recipe, rank, world)
        return batches, sum(batch.ids.numel() for batch in batches) * world

    def _forward(self, batch: MicroBatch) -> Tensor:
        tensors = [tensor.to(self._accelerator.device, non_blocking=True) for tensor in batch]
        if self._sharded:
            with self._accelerator.autocast():  # accelerate adds it to the others by itself
                return self._wrapped(*tensors)  # type: ignore[no-any-return]
        if self.saved_tensor_bytes is not None:
            return self._wrapped(*tensors)  # type: ignore[no-any-return]
        with saved_tensor_bytes(self._loss) as count:
            nats: Tensor = self._wrapped(*tensors)
        self.saved_tensor_bytes = count()
        return nats

    def _halve(self, error: torch.cuda.OutOfMemoryError) -> None:
        """Halve the rows of a pass, which doubles the passes of a step; at most once per run.

        Raises:
            MemoryError: there is nothing to halve, or other ranks are waiting for this one's gradients.
        """
        halved = self.micro_batch_size < self._recipe.micro_batch_size
        if halved or self.micro_batch_size == 1 or self._accelerator.num_processes > 1:
            raise MemoryError(
                f"out of device memory with micro-batches of {self.micro_batch_size} rows "
                f"({str(error).splitlines()[0]}): lower recipe.micro_batch_size, set "
                "gradient_checkpointing, or use a larger GPU"
            ) from error
        self.micro_batch_size //= 2
        self.saved_tensor_bytes = None
        print(f"out of memory: micro-batches of {self.micro_batch_size} rows from here", file=sys.stderr)

    def _forget_gradients(self) -> None:
        for parameter in models.trainable(self._loss).values():
            parameter.grad = None

    def _try_compiled(self, steps_left: int) -> None:
        if not self._insist:
            refusal = compiling.refuse_untried(self._mean(min(self._step_seconds)), steps_left)
            if refusal:
                self.verdict = self.verdict._replace(reason=refusal)
                return
        compiling.compile_blocks(self._loss)
        # on one step, wherever a run is resumed: inductor may specialize on the first shapes it sees
        step = self._steps[min(WARM_STEPS, len(self._steps) - 1)]
        with working("compiling, and timing it"):
            times = compiling.time_both(partial(self._accumulate, step, synchronise=False))
        self._forget_gradients()
        failed = self._mean(float(bool(times.failure)))  # above 0 if it failed on any rank
        won = self._mean(float(times.won)) == 1.0  # on all ranks
        eager, compiled, trial = (self._mean(seconds) for seconds in times[:3])
        if failed:
            reason = times.failure or "torch.compile failed on another rank"
            self.verdict = CompileDecision(False, reason, compile_seconds=trial)
        else:
            self.verdict = compiling.judge(eager, compiled, trial, won, steps_left, self._insist)
        if not self.verdict.compiled:
            compiling.uncompile_blocks(self._loss)

    def _mean(self, value: float) -> float:
        """Average over all ranks, so that all make the same decision."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self._accelerator.device)
        return float(self._accelerator.reduce(tensor, reduction="mean"))


def _step_seed(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 1_000_003 + rank) % 2**63
