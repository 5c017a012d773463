"""Score a model on examples: answer likelihood, greedy answers, label choice; for evaluate, watch, trials."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import examples, files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import Heard, ProgressLog, unheard
from deepcuts.components.training import generation, label_choice, models, prefixes, sharing, tools
from deepcuts.components.training.batches import collate
from deepcuts.components.training.label_choice import LabelTokens
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.prefixes import PrefixTree
from deepcuts.components.training.render import (
    Rendered,
    answer_text,
    form_of,
    render_each,
    render_prompt,
)

RENDERED_TOGETHER = 500
"""Examples tokenised in one call."""
BATCH_TOKENS = 16_384
"""Padded tokens of one forward pass: 16 MB of float32 activations per layer at width 256."""
LOGIT_BYTES = 4 * 2**30
"""Limit for a pass's float32 logits and a copy, if every token is an answer token: with a large vocabulary,
passes are smaller. Otherwise an 8B model with 128,256 tokens could not be scored on 24 GB."""


def answer_nats(
    loss: CompletionLoss, data: Sequence[Rendered], scored: Heard = unheard
) -> list[tuple[float, int]]:
    """Return (nats, answer tokens) of each example, in order; ``scored`` gets the number newly done.

    Shared prefixes are computed once if that is proven correct and saves enough; otherwise examples are
    batched by length, one per row.
    """
    results: list[tuple[float, int]] = [(0.0, 0)] * len(data)
    device = next(loss.parameters()).device
    loss.eval()
    with torch.inference_mode():
        most = pass_tokens(loss.vocabulary)
        if trees := sharing.trees(loss, data, most):
            return _tree_nats(loss, data, trees, scored)
        for batch in by_length([len(rendered.ids) for rendered in data], most):
            width = max(len(data[i].ids) for i in batch)
            laid = collate([[i] for i in batch], data, width)
            ids, positions, targets = (tensor.to(device) for tensor in laid)
            # right padding needs no mask, as nothing looks ahead; plain positions make a row one document
            plain = torch.arange(width, device=device).expand(len(batch), -1)
            nats = loss.token_nats(ids, plain, targets).double()
            rows = (targets >= 0).nonzero()[:, 0]
            sums = torch.zeros(len(batch), dtype=torch.float64, device=device).index_add_(0, rows, nats)
            counts = torch.bincount(rows, minlength=len(batch))
            for i, total, count in zip(batch, sums.tolist(), counts.tolist(), strict=True):
                results[i] = (total, count)
            scored(len(batch))
    return results


def _tree_nats(
    loss: CompletionLoss, data: Sequence[Rendered], trees: Iterable[PrefixTree], scored: Heard
) -> list[tuple[float, int]]:
    results: list[tuple[float, int]] = [(0.0, 0)] * len(data)
    device = next(loss.parameters()).device
    for tree in trees:
        counts = [sum(data[i].mask[1:]) for i in tree.examples]
        nats = loss.token_nats(*(tensor.to(device) for tensor in prefixes.lay(tree, data))).double()
        parts = torch.split(nats, counts)
        for i, part, count in zip(tree.examples, parts, counts, strict=True):
            results[i] = (float(part.sum()), count)
        scored(len(tree.examples))
    return results


def mean_nats(loss: CompletionLoss, data: Sequence[Rendered]) -> float:
    """Return the mean nats per answer token over all examples."""
    scores = answer_nats(loss, data, ProgressLog(len(data), "examples scored", brief=True).add)
    return sum(nats for nats, _ in scores) / sum(tokens for _, tokens in scores)


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Example],
    max_new_tokens: int,
    answered: Heard = unheard,
) -> list[str]:
    """Return the model's greedy answer to each example's prompt, at most ``max_new_tokens`` long.

    The context also limits it, as learned positions (GPT-2) end there. ``answered`` gets the number done.
    """
    prompts = [render_prompt(record, tokenizer) for record in records]
    settings, form = generation.decoding(model, tokenizer), form_of(tokenizer)
    ends, context = set(settings.eos_token_id), models.context_length(model)
    rooms = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    answers = [""] * len(records)
    model.eval()
    for room in sorted({room for room in rooms if room > 0}):
        settings.max_new_tokens = room
        members = [i for i, found in enumerate(rooms) if found == room]
        for batch in by_length([len(prompts[i]) + room for i in members]):
            tokens = continued(model, [prompts[members[i]] for i in batch], settings)
            for i, row in zip(batch, tokens.tolist(), strict=True):
                said = list(takewhile(lambda token: token not in ends, row))
                answers[members[i]] = answer_text(said, tokenizer, form)
            answered(len(batch))
    answered(sum(room <= 0 for room in rooms))
    return answers


def continued(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    processors: Sequence[LogitsProcessor] = (),
) -> Tensor:
    """Return the tokens generated after each prompt: (prompts, longest answer)."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), settings.pad_token_id)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):  # left padding, so that answers start in the same column
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        output: Tensor = model.generate(
            inputs=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList(processors),
        )
    return output[:, width:]


def is_right(given: str, record: Example) -> bool:
    """Tell whether a generated answer is right: calls by parsed arguments, text by ``same_answer``."""
    last = record.messages[-1]
    return tools.same_calls(given, last) if last.tool_calls else same_answer(given, last.content)


def same_answer(given: str, wanted: str) -> bool:
    """Compare texts with white space collapsed; with GSM8K's ``####``, only the part after the last one."""
    if "####" in wanted:
        given = given.rpartition("####")[2] if "####" in given else ""
        wanted = wanted.rpartition("####")[2]
    return " ".join(given.split()) == " ".join(wanted.split())


def choose_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Example],
    labels: Sequence[str],
    chose: Heard = unheard,
) -> tuple[list[str], LabelTokens]:
    """Return (the likeliest label for each example, the tokens this took); ``chose`` hears of each.

    The likelihood is that of the label and its end token.
    """
    asked = list(label_choice.questions(tokenizer, records, labels))
    chosen, tokens = label_choice.choose(model, asked, chose)
    return [labels[label] for label in chosen], tokens


def pass_tokens(vocabulary: int) -> int:
    """Return how many tokens, including padding, fit into one forward pass with this vocabulary."""
    return min(BATCH_TOKENS, max(1, LOGIT_BYTES // (8 * vocabulary)))


def by_length(lengths: Sequence[int], most: int | None = None) -> Iterator[list[int]]:
    """Yield indices in batches of at most ``most`` (``BATCH_TOKENS``) padded tokens, longest first."""
    batch: list[int] = []
    most = most or BATCH_TOKENS
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def render_all(records: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Rendered]:
    """Return token ids and loss mask of each example, tokenised in batches.

    Raises: as ``render``, for the first example that cannot be rendered.
    """
    result: list[Rendered] = []
    progress = ProgressLog(len(records), "examples tokenised", brief=True)
    for start in range(0, len(records), RENDERED_TOGETHER):
        for found in render_each(records[start : start + RENDERED_TOGETHER], tokenizer):
            if isinstance(found, DataError):
                raise found
            result.append(found)
        progress(len(result))
    return result


def read(split: Path, tokenizer: PreTrainedTokenizerBase) -> list[Rendered]:
    """Read a split as token ids; an empty file is allowed."""
    return render_all(examples.read(split), tokenizer) if files.size_bytes(split) else []


def mean_loss(loss: CompletionLoss, data: Sequence[Rendered]) -> float | None:
    """Return the mean loss by which a search compares trials; None if nothing is held out."""
    return mean_nats(loss, data) if data else None
