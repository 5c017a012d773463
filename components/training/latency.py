"""Compare two models' milliseconds per generated token, alternating them in one process."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from deepcuts.components.core.progress import Heard, unheard

BATCHES = (1, 16)
"""Rows decoded at once: one user, and a busy server."""
ROUNDS = 21
"""Alternations of reference and candidate; 21 put the 90 % interval of a median at ranks 7 and 15."""
MIN_ROUNDS = 9
"""Rounds for a slow model; 9 put that interval at ranks 2 and 8."""
MAX_SECONDS = 20.0
"""Time after which only ``MIN_ROUNDS`` are completed: 21 rounds of SmolLM2 in float32 with 16 rows took 8
minutes on a busy machine and showed no more than 9."""
PROMPT_TOKENS = 16
NEW_TOKENS = 8
"""Tokens per round: enough to be timed, few enough for many alternations."""


Decode = Callable[[int], float]
"""Takes a number of rows, returns the seconds of ``NEW_TOKENS`` decoding steps."""


class Latency(NamedTuple):
    """Milliseconds per generated token (a decoding step over its rows), and candidate / reference."""

    reference_ms: float
    candidate_ms: float
    ratio: float
    """Median over rounds of candidate / reference; each pair is measured back to back."""
    low: float
    high: float
    """Interval of that median at 90 % or more, by order statistics, so without assumptions on the noise."""


def compare(
    reference: Decode,
    candidate: Decode,
    batch: int,
    rounds: int,
    timed: Heard = unheard,
) -> Latency:
    """Alternate decoding ``batch`` rows with both models, after one warm-up round; the first also alternates.

    Slow models get fewer rounds. ``timed`` is called after each round, and for the rounds left out.
    """
    began = time.monotonic()
    decode = (reference, candidate)
    seconds: list[list[float]] = []
    for number in range(rounds + 1):
        if number > MIN_ROUNDS and time.monotonic() - began > MAX_SECONDS:
            timed(rounds + 1 - number)
            break
        order = (0, 1) if number % 2 else (1, 0)
        taken = {which: decode[which](batch) for which in order}
        seconds.append([taken[0], taken[1]])
        timed(1)
    ratios = sorted(theirs / ours for ours, theirs in seconds[1:])
    low, high = median_interval(ratios)
    ours, theirs = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
    scale = 1000 / (NEW_TOKENS * batch)
    return Latency(ours * scale, theirs * scale, statistics.median(ratios), low, high)


def decode_seconds(model: PreTrainedModel, batch: int) -> float:
    """Time ``NEW_TOKENS`` decoding steps after a prompt, which does not count."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (batch, PROMPT_TOKENS), generator=generator).to(model.device)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        token = _next(model, ids, cache)
        begin = _now(model.device)
        for _ in range(NEW_TOKENS):
            token = _next(model, token, cache)
        return _now(model.device) - begin


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the k-th smallest and k-th largest value, which enclose the median with at least 90 %.

    k is the largest with P(Binomial(n, 1/2) < k) <= 5 %. Below 5 values there is none, so the range is
    returned.
    """
    n = len(ordered)
    below = [sum(math.comb(n, i) for i in range(k)) / 2**n for k in range(n + 1)]
    k = max(1, sum(share <= 0.05 for share in below) - 1)
    return ordered[k - 1], ordered[n - k]


def _next(model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1:].argmax(-1)  # type: ignore[no-any-return]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
