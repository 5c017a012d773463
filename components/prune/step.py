"""Prune: cut the least important parts of a model, measured on calibration text (cut 6)."""

import copy
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deepcuts.components.core import cli, files, strict
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.prune import importance, report, shrink
from deepcuts.components.prune.layout import blocks_of, layout_of
from deepcuts.components.training import calibration, latency, models, quantized, scoring
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

METHODS = ("magnitude", "width", "depth", "random-depth")
BLOCK = 32
"""Weights that number formats store together."""


def prune(
    base: Path,
    model: Path,
    text: Path,
    pruned: Path,
    summary: Path,
    method: str,
    amount: float,
    calibration_tokens: int,
    seed: int,
) -> Facts:
    """Write ``pruned``: ``model`` (an adapter is merged into ``base``) without its least important parts.

    ``magnitude`` zeroes the share ``amount`` of smallest weights; ``width`` drops that share of MLP neurons
    and key-value heads (with their query heads), ``depth`` of blocks, and ``random-depth`` of random blocks,
    as the control. Importance is measured on at most ``calibration_tokens`` of ``text``, drawn by ``seed``.
    The loss is on the same text and so optimistic: evaluate the healed model on a test split.

    Raises:
        ValueError: the method is unknown, or nothing would be cut or left.
        DataError: the model is quantized or not finite, or there is too little text.
    """
    check(method, amount, calibration_tokens)
    if quantized.is_quantized(model):
        raise DataError(f"{model} is already quantized, which comes last: give the model it was made from")
    with tempfile.TemporaryDirectory(prefix="prune-") as scratch:
        network, tokenizer, whole, stored = calibration.load_whole(model, base, Path(scratch))
        bytes_before = files.size_bytes(whole)
    data = calibration.take(text, network, tokenizer, calibration_tokens, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device=device, dtype=models.resolve_precision("auto", device))
    smaller, what = cut(network, data, method, amount, seed)
    facts: Facts = {
        "tokens": sum(len(rendered.ids) for rendered in data),
        "weights_before": models.count_weights(network)[0],
        "weights_after": models.count_weights(smaller)[0],
        "zero_share": shrink.zero_share(smaller),
        "nats_before": scoring.mean_nats(CompletionLoss(network), data),
        "nats_after": scoring.mean_nats(CompletionLoss(smaller), data),
    }
    before, after = (partial(latency.decode_seconds, one) for one in (network, smaller))
    progress = ProgressLog(len(latency.BATCHES) * (latency.ROUNDS + 1), "rounds timed")
    timings = {
        batch: latency.compare(before, after, batch, latency.ROUNDS, progress.add)
        for batch in latency.BATCHES
    }
    models.save(smaller, tokenizer, base, pruned, stored)
    facts |= {
        "bytes_before": bytes_before,
        "bytes_after": files.size_bytes(pruned),
    }
    for batch, timing in timings.items():
        facts |= {
            f"ms_per_token_batch_{batch}_before": timing.reference_ms,
            f"ms_per_token_batch_{batch}_after": timing.candidate_ms,
            f"time_ratio_batch_{batch}": timing.ratio,
        }
    facts |= report.verdict(method, what, facts, timings).facts()
    with files.staged(summary) as staging:
        staging.write_text(report.page(facts, timings))
    return facts


def check(method: str, amount: float, calibration_tokens: int) -> None:
    """Raise ValueError for an unknown method or an impossible amount or number of tokens."""
    if method not in METHODS:
        raise ValueError(strict.unknown_key("", method, METHODS).replace("unknown key", "unknown method"))
    if not 0 < amount < 1:
        raise ValueError(
            f"amount {amount} cuts {'nothing' if amount <= 0 else 'everything'}: give one between 0 and 1"
        )
    if calibration_tokens < 1:
        raise ValueError(f"calibration_tokens {calibration_tokens}: give at least 1")


def cut(
    network: PreTrainedModel, data: Sequence[Rendered], method: str, amount: float, seed: int
) -> tuple[PreTrainedModel, str]:
    """Return (the smaller model, a description of the cut); ``network`` is unchanged."""
    match method:
        case "magnitude":
            zeroed = copy.deepcopy(network)
            shrink.zero_smallest(zeroed, amount)
            return zeroed, f"the {amount:.0%} smallest weights of the blocks' linear layers set to zero"
        case "width":
            return narrow(network, data, amount)
        case "depth":
            return drop(network, importance.blocks(network, data).tolist(), amount)
        case _:
            draw = random.Random(seed)
            return drop(network, [draw.random() for _ in blocks_of(network)], amount)


def narrow(network: PreTrainedModel, data: Sequence[Rendered], amount: float) -> tuple[PreTrainedModel, str]:
    """Cut MLP neurons and key-value heads with their query heads, by importance in the whole model.

    Raises:
        ValueError: nothing can be cut, or the amount rounds to nothing.
    """
    if not layout_of(network).neuron_axes:
        raise ValueError(
            f"model_type {network.config.model_type!r} cannot be cut in width (its blocks differ, or have no "
            "gate_proj, up_proj and down_proj): set method to depth"
        )
    of_neurons = importance.neurons(network, data)
    neurons, groups = len(of_neurons[0]), 1
    words, smaller = [], network
    if layout_of(network).query_axes:
        of_groups = importance.head_groups(network, data)
        groups = len(of_groups[0])
        if (left := allowed_groups(network, remaining(groups, amount))) < groups:
            smaller = shrink.keep_head_groups(smaller, [best(scores, left) for scores in of_groups])
        words.append(f"{groups - left} of {groups} key-value heads per block, with their query heads")
    else:
        words.append("no heads (their number is tied to other weights)")
    if (left := remaining_neurons(neurons, amount)) < neurons:
        smaller = shrink.keep_neurons(smaller, [best(scores, left) for scores in of_neurons])
    words.append(f"{neurons - left} of {neurons} MLP neurons per block")
    if smaller is network:
        raise ValueError(f"amount {amount} of {neurons} neurons and {groups} heads rounds to none: raise it")
    return smaller, " and ".join(words)


def drop(network: PreTrainedModel, scores: list[float], amount: float) -> tuple[PreTrainedModel, str]:
    """Keep the blocks with the highest scores, in their order."""
    blocks = len(scores)
    gone = blocks - round(blocks * (1 - amount))
    if not 0 < gone < blocks:
        raise ValueError(
            f"amount {amount} of {blocks} blocks rounds to {'none' if gone == 0 else 'all of them'}: "
            f"give one from {1 / blocks:.2f} to {1 - 1 / blocks:.2f}"
        )
    kept = best(torch.tensor(scores, dtype=torch.float64), blocks - gone).tolist()
    names = ", ".join(str(block) for block in range(blocks) if block not in kept)
    return shrink.keep_blocks(network, kept), f"blocks {names} of {blocks}"


def allowed_groups(network: PreTrainedModel, least: int) -> int:
    """Return the fewest key-value heads, at least ``least``, whose query heads divide the hidden size.

    Llama's config refuses to load otherwise (transformers 5.17, ``validate_architecture``), although with a
    separate head width it need not; so unimportant heads may stay.
    """
    config = network.config
    queries = config.num_attention_heads // config.num_key_value_heads
    fitting = (n for n in range(least, config.num_key_value_heads) if config.hidden_size % (n * queries) == 0)
    return next(fitting, int(config.num_key_value_heads))


def remaining(units: int, amount: float) -> int:
    """Count how many of ``units`` remain when the share ``amount`` is cut, rounded; at least one."""
    return max(1, round(units * (1 - amount)))


def remaining_neurons(neurons: int, amount: float) -> int:
    """Count how many MLP neurons remain: of a width in whole ``BLOCK``, the next one that is.

    GGUF's formats take rows of 32: 1,229 of SmolLM2's 1,536 neurons could be stored in no number format. A
    narrow MLP, of which a block is more than an eighth, is cut where the amount says.
    """
    left = remaining(neurons, amount)
    if neurons % BLOCK or neurons < 8 * BLOCK:
        return left
    return max(BLOCK, round(left / BLOCK) * BLOCK)


def best(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` highest scores, ascending."""
    return scores.topk(count).indices.sort().values


if __name__ == "__main__":
    cli.main(prune)
