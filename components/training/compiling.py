"""Use torch.compile if it pays off (cut 5): run a trial, price it, decide.

Blocks are compiled, not the whole model: they share the compiled code, packed attention stays eager, and
parameters keep their names (no ``_orig_mod.``). Inductor keeps compiled code in ``TORCHINDUCTOR_CACHE_DIR``;
trials of a search that share this folder compile once.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from deepcuts.components.core import verdicts
from deepcuts.components.core.receipts import Facts
from deepcuts.components.training.blocks import blocks_of

COMPILE_SECONDS = 40.0
"""Approximate compile time: 22 to 30 s for a small Llama, 39 to 43 s with LoRA (CPU, torch 2.13, cold)."""
MAX_LOST = 0.01
"""Largest share of the rest of the run that a trial ending in a refusal may cost."""
ROUNDS = 5
"""Pairs of steps that must all be faster compiled (by chance: one trial in 32). With the medians of three
pairs, an equally fast step looked 20 % faster on a busy machine."""


class CompileDecision(NamedTuple):
    """Whether a run is compiled, why, and what the trial cost."""

    compiled: bool | None
    """None: not decided yet, so eager."""
    reason: str
    compile_seconds: float = 0.0
    """Seconds of the whole trial, including timed steps, which train nothing."""
    eager_step_seconds: float | None = None
    """Forward and backward passes of one step."""
    compiled_step_seconds: float | None = None

    @property
    def break_even_steps(self) -> int | None:
        """Return the number of compiled steps that pay back the trial; None if it never does."""
        if self.eager_step_seconds is None or self.compiled_step_seconds is None:
            return None
        saved = self.eager_step_seconds - self.compiled_step_seconds
        return math.ceil(self.compile_seconds / saved) if saved > 0 else None

    def facts(self) -> Facts:
        return {
            **verdicts.Verdict("compile", "applied" if self.compiled else "off", self.reason).facts(),
            "compiled": bool(self.compiled),
            "compile_seconds": round(self.compile_seconds, 3),
            "eager_step_seconds": self.eager_step_seconds,
            "compiled_step_seconds": self.compiled_step_seconds,
            "break_even_steps": self.break_even_steps if self.compiled else None,
        }


def refuse_untried(eager_step_seconds: float, remaining_steps: int) -> str | None:
    """Return why a trial is too risky, or None if even a failed one costs at most ``MAX_LOST``."""
    remaining = eager_step_seconds * remaining_steps
    trial = COMPILE_SECONDS + 2 * (1 + ROUNDS) * eager_step_seconds
    if remaining * MAX_LOST >= trial:
        return None
    return (
        f"not tried: about {trial:.0f} s to compile and try is more than {MAX_LOST:.0%} of the "
        f"{remaining:.0f} s that the last {remaining_steps} steps take"
    )


def before(setting: str, decided: bool | None) -> CompileDecision:
    """Return the decision before any trial, from the Recipe's ``compile`` or the run being resumed."""
    if setting == "off":
        return CompileDecision(False, "recipe.compile is off")
    if setting == "auto" and decided is False:
        return CompileDecision(False, "as decided before the run was resumed")
    return CompileDecision(None, "not tried: the run ended before its steps could be timed")


def judge(
    eager: float, compiled: float, compile_seconds: float, won: bool, steps_left: int, insist: bool
) -> CompileDecision:
    """Decide from a trial's times (seconds per step's passes); compiling is paid for either way."""
    verdict = CompileDecision(insist or won, "", compile_seconds, eager, compiled)
    change = f"{compiled / eager - 1:+.1%} seconds per step, {compile_seconds:.1f} s to compile and try"
    steps = verdict.break_even_steps
    if steps is None:
        return verdict._replace(reason=f"{change}: slower than eager")
    if not won:
        return verdict._replace(reason=f"{change}: not faster in each of {ROUNDS} pairs of steps")
    pays = "pays off" if steps <= steps_left else "does not pay off any more, though faster from here"
    return verdict._replace(reason=f"{change}: {pays}, break-even after {steps} of {steps_left} steps")


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks in place: one graph for all shapes with several rows, another for a single row.

    With fixed shapes, passes had to be padded with empty rows, which cost more than fusing saved: full
    fine-tuning of a Llama of width 64 or 128 took 4 to 9 % more CPU time per step than eager; now 4 to 12 %
    less.
    """
    for block in blocks_of(model):
        block.compile(dynamic=True)


def uncompile_blocks(model: nn.Module) -> None:
    """Undo ``compile_blocks``."""
    for block in blocks_of(model):
        block._compiled_call_impl = None


class Times(NamedTuple):
    """Seconds of an eager call, a compiled one, and the whole trial."""

    eager: float
    compiled: float
    trial: float
    won: bool
    """The compiled call was faster every time."""
    failure: str
    """Why it does not compile here; empty if it does."""


def time_both(passes: Callable[[], object]) -> Times:
    """Time passes through compiled blocks, alternating eager and compiled, after a warm-up of each."""
    began = time.perf_counter()
    pairs = []
    try:
        for _ in range(1 + ROUNDS):
            with torch.compiler.set_stance("force_eager"):
                eager_seconds = _seconds(passes)
            pairs.append((eager_seconds, _seconds(passes)))
    except (RuntimeError, OSError) as error:  # no C++ compiler, or inductor fails
        torch._dynamo.reset()
        words = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return Times(0.0, 0.0, time.perf_counter() - began, False, f"it does not compile here ({words})")
    return Times(
        eager=statistics.median(before for before, _ in pairs[1:]),
        compiled=statistics.median(after for _, after in pairs[1:]),
        trial=time.perf_counter() - began,
        won=all(after < before for before, after in pairs[1:]),
        failure="",
    )


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
