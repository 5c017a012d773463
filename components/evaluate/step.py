"""Evaluate: score a model on a split, example by example, into a Scorecard; a killed run resumes."""

import hashlib
import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import cli, examples, files, former_names, scorecards
from deepcuts.components.core.bounds import Count, Seed
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import Heard, ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.scorecards import Sample, Score
from deepcuts.components.core.store import open_store
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.evaluate.kept_scores import KeptScores
from deepcuts.components.gguf import convert
from deepcuts.components.gguf import scoring as gguf_scoring
from deepcuts.components.gguf.engine import LlamaCpp
from deepcuts.components.training import general_text, label_choice, models, scoring
from deepcuts.components.training.label_choice import LabelTokens
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

CHUNK = 64
"""Examples between writes to the store, and so the most that can be lost; also between progress lines."""
SAMPLES, SAMPLE_TOKENS, SHOWN = 3, 64, 600
"""Answers shown in reports: their number, maximum tokens, and characters kept of each text."""
HARNESS = "lm-eval:"
"""Prefix of a measure that is a task of lm-evaluation-harness."""


def evaluate(
    base: Path,
    model: Path,
    split: Path,
    labels: Path,
    scorecard: Path,
    store: str,
    measures: list[str],
    max_examples: Count,
    max_new_tokens: Count,
    seed: Seed,
) -> Facts:
    """Score ``model`` (an adapter needs its ``base``) on at most ``max_examples`` of ``split``.

    A GGUF model is scored in llama.cpp, on the file that is served. The completion loss is always measured.
    ``exact_match`` decodes greedily up to ``max_new_tokens``; ``label_accuracy`` takes the likeliest of
    ``labels``. ``seed`` draws the same examples for every model. ``lm-eval:NAME`` runs a whole task of
    lm-evaluation-harness, which fetches its own data; the result goes into ``harness.json`` of the Scorecard
    and into no comparison. ``general`` (``general:FILE``) also scores general text, so that ``accept`` sees
    what the model forgot.
    Scores are written to ``store``, CHUNK examples at a time, so that a killed step resumes there.
    """
    text = general_text.path_of(measures)
    passages = general_text.passages(text) if text else []
    measures, tasks = split_measures(measures)
    records = sample(examples.read(split), max_examples, seed)
    classes = read_labels(labels)
    if "label_accuracy" in measures and not classes:
        raise DataError(
            f"{labels} is empty: label_accuracy needs a classification dataset; remove it from measures"
        )
    network, tokenizer = load(model, base)
    data = scoring.render_all(records, tokenizer)
    check_context(
        records, data, network.context if isinstance(network, LlamaCpp) else models.context_length(network)
    )
    settings = [measures, max_new_tokens, classes, [record.id for record in records]]
    digests = [files.digest(path) for path in (model, base, split)]
    identity = hashlib.sha256(msgspec.json.encode([digests, settings])).hexdigest()
    kept = KeptScores(open_store(store), f"evaluations/{identity}")
    found: dict[str, Score] = {}
    label_tokens: list[LabelTokens] = []
    each = 1 + sum(measure in measures for measure in ("exact_match", "label_accuracy"))
    progress = ProgressLog(each * len(records), "scores")
    for number, chunk in enumerate(chunks([len(rendered.ids) for rendered in data])):
        rows = [records[i] for i in chunk], [data[i] for i in chunk]
        if scores := kept.read(number):
            progress.add(each * len(scores), free=each * len(scores))
        else:
            scores, took = score(network, tokenizer, *rows, classes, measures, max_new_tokens, progress.add)
            kept.write(number, scores)
            label_tokens.append(took)
        found |= {score.id: score for score in scores}
    scores = [found[record.id] for record in records]
    card = scorecards.summarise(scores, files.digest(model), files.digest(split), seed)
    facts = describe(card, sum(len(rendered.ids) for rendered in data))
    extra_files, more = others(network, tokenizer, passages, tasks)
    extra_files[scorecards.SAMPLES] = sample_answers(network, tokenizer, records, max_new_tokens)
    scorecards.write(scorecard, card, scores, extra_files)
    kept.clear()
    return facts | more | label_choice.total(label_tokens).facts() | {"resumed_examples": kept.found}


def sample_answers(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Example],
    max_new_tokens: int,
) -> bytes:
    """Let the model answer the first examples for reports; they are not selected by quality.

    Plain text, which has no question, is left out, and so are models that do not run in torch.
    """
    if not isinstance(network, torch.nn.Module):
        return b""
    asked = [record for record in records if len(record.messages) > 1][:SAMPLES]
    answers = scoring.greedy_answers(network, tokenizer, asked, min(max_new_tokens, SAMPLE_TOKENS))
    lines = [
        Sample(record.id, record.messages[-2].content[:SHOWN], examples.answer(record)[:SHOWN], said[:SHOWN])
        for record, said in zip(asked, answers, strict=True)
    ]
    return msgspec.json.Encoder().encode_lines(lines)


def load(model: Path, base: Path) -> tuple[PreTrainedModel | LlamaCpp, PreTrainedTokenizerBase]:
    """Load a model for scoring: in llama.cpp from a GGUF file, else in torch on this machine's device."""
    if convert.is_gguf(model):
        return LlamaCpp(model), models.load_tokenizer(model)
    network, tokenizer = models.load(model, base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device=device, dtype=models.resolve_precision("auto", device))
    return network, tokenizer


def others(
    network: PreTrainedModel | LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    passages: list[str],
    tasks: list[str],
) -> tuple[dict[str, bytes], Facts]:
    """Measure general text and tasks; return (files for the Scorecard's folder, facts)."""
    extra_files: dict[str, bytes] = {}
    facts: Facts = {}
    if passages:
        if isinstance(network, LlamaCpp):
            known = gguf_scoring.passage_scores(network, tokenizer, passages)
        else:
            known = general_text.score_network(network, tokenizer, passages)
        extra_files[scorecards.GENERAL] = msgspec.json.Encoder().encode_lines(known)
        tokens = sum(score.answer_tokens for score in known)
        facts |= {
            "general_loss": sum(score.answer_nats for score in known) / tokens,
            "general_tokens": tokens,
        }
    if tasks and isinstance(network, LlamaCpp):
        print(f"lm-eval: {', '.join(tasks)} left out, tasks run only on transformers models", file=sys.stderr)
    elif tasks:
        assert not isinstance(network, LlamaCpp)
        # imported here: 5 s and 36 packages that other evaluations do not need
        from deepcuts.components.evaluate import harness

        results = harness.run(network, tokenizer, tasks)
        extra_files["harness.json"] = msgspec.json.format(msgspec.json.encode(results), indent=1)
        facts |= {f"lm_eval_{result.task}_{result.metric}": result.value for result in results}
    return extra_files, facts


def split_measures(measures: list[str]) -> tuple[list[str], list[str]]:
    """Return (our own measures, names of harness tasks).

    Raises:
        ValueError: a measure is neither.
    """
    text, of_file = general_text.MEASURE, f"{general_text.MEASURE}:"
    measures = [m for m in measures if m != text and not m.startswith(of_file)]
    named = (former_names.named(measure, "measures") for measure in measures)
    own = [measure for measure in named if not measure.startswith(HARNESS)]
    if unknown := sorted(set(own) - set(scorecards.LOWER_IS_BETTER)):
        raise ValueError(
            f"measures: {', '.join(unknown)} is not known: give {', '.join(scorecards.LOWER_IS_BETTER)}, or "
            f"{HARNESS}TASK for a task of lm-evaluation-harness, or {general_text.MEASURE}"
        )
    return own, [measure.removeprefix(HARNESS) for measure in measures if measure.startswith(HARNESS)]


def chunks(lengths: list[int]) -> list[list[int]]:
    """Split the rows into chunks of similar length, longest first, so that too large ones fail at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    return [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]


def read_labels(path: Path) -> list[str]:
    """Return the labels of a classification, as ingest writes them.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: it is not a JSON list of texts.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[str])
    except MALFORMED as error:
        raise DataError(f"{path} is not a JSON list of labels ({error}): run ingest again") from error


def check_context(records: list[Example], data: list[Rendered], context: int) -> None:
    """Check that no example is longer than the model's positions, as its score would be meaningless.

    Raises:
        DataError: an example is too long.
    """
    for record, rendered in zip(records, data, strict=True):
        if len(rendered.ids) > context:
            raise DataError(
                f"example {record.id!r} has {len(rendered.ids)} tokens, the model's context {context}: "
                "lower max_tokens so that ingest sets such examples aside"
            )


def sample(records: list[Example], count: int, seed: int) -> list[Example]:
    """Return ``count`` examples drawn without replacement, in their own order."""
    if len(records) <= count:
        return records
    chosen = random.Random(seed).sample(range(len(records)), count)
    return [records[i] for i in sorted(chosen)]


def score(
    network: PreTrainedModel | LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Example],
    data: list[Rendered],
    classes: list[str],
    measures: list[str],
    max_new_tokens: int,
    scored: Heard,
) -> tuple[list[Score], LabelTokens]:
    """Return (one Score per example, in order; the tokens that choosing labels took).

    ``scored`` gets the number of measurements newly done.
    """
    way: Any = scoring
    took = LabelTokens()
    if isinstance(network, LlamaCpp):
        way, nats = gguf_scoring, gguf_scoring.answer_nats(network, data, scored)
    else:
        nats = scoring.answer_nats(CompletionLoss(network), data, scored)
    scores = [Score(r.id, total, tokens) for r, (total, tokens) in zip(records, nats, strict=True)]
    if "exact_match" in measures:
        answers = way.greedy_answers(network, tokenizer, records, max_new_tokens, scored)
        hits = [scoring.is_right(a, r) for a, r in zip(answers, records, strict=True)]
        scores = [
            msgspec.structs.replace(s, exact_match=hit, predicted=answer)
            for s, hit, answer in zip(scores, hits, answers, strict=True)
        ]
    if "label_accuracy" in measures:
        chosen, took = way.choose_labels(network, tokenizer, records, classes, scored)
        scores = [
            msgspec.structs.replace(s, label_correct=label == r.label, predicted=label)
            for s, label, r in zip(scores, chosen, records, strict=True)
        ]
    return scores, took


def describe(card: scorecards.Scorecard, tokens: int) -> Facts:
    """Return the summary as facts of the receipt."""
    facts: Facts = {"tokens": tokens, "examples": card.examples, "perplexity": card.perplexity}
    for name in scorecards.LOWER_IS_BETTER:
        interval = getattr(card, name)
        if interval is not None:
            facts |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return facts


if __name__ == "__main__":
    cli.main(evaluate)
