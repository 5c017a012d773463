"""Measure the cost of serving a token, and when a smaller model has paid back its training."""

import statistics
import time
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from deepcuts.components.training.models import context_length

ROUNDS, NEW_TOKENS = 5, 32
"""Answers of each model, alternated so that load on the machine affects both."""


def ms_per_token(models: Sequence[PreTrainedModel], prompt: Sequence[int], eos: int) -> list[float]:
    """Measure median milliseconds per token of each model: greedy, batch 1, with prompt, after a warm-up."""
    room = min(context_length(model) for model in models) - len(prompt)
    count = min(NEW_TOKENS, room)
    if count < 1:
        raise ValueError(
            f"the first example's prompt of {len(prompt)} tokens fills the student's context: "
            "give the student more positions"
        )
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=eos, eos_token_id=eos
    )
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(1 + ROUNDS):
        for model, found in zip(models, seconds, strict=True):
            found.append(_seconds(model, prompt, settings))
    return [1000 * statistics.median(found[1:]) / count for found in seconds]


def _seconds(model: PreTrainedModel, prompt: Sequence[int], settings: GenerationConfig) -> float:
    ids = torch.tensor([prompt], device=model.device)
    began = time.monotonic()
    with torch.inference_mode():
        model.eval().generate(inputs=ids, generation_config=settings).cpu()  # .cpu() waits for the device
    return time.monotonic() - began


def break_even_tokens(training_seconds: float, teacher_ms: float, student_ms: float) -> int | None:
    """Return the served tokens after which the time saved equals the training time; None: never.

    Assumes that serving runs on the same kind of node as training.
    """
    saved_seconds = (teacher_ms - student_ms) / 1000
    return round(training_seconds / saved_seconds) if saved_seconds > 0 else None
