"""Score a GGUF model with llama.cpp, with the functions of ``components/training/scoring.py``."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import Heard, unheard
from deepcuts.components.core.scorecards import Score
from deepcuts.components.gguf import label_choice
from deepcuts.components.gguf.convert import NoGguf
from deepcuts.components.gguf.engine import LlamaCpp, nats_of
from deepcuts.components.training import general_text, generation
from deepcuts.components.training.label_choice import LabelTokens, questions
from deepcuts.components.training.render import Rendered, answer_text, form_of, render_prompt

OTHER_TEXTS = 0.01
"""Largest share of texts that llama.cpp may tokenize differently than in training."""


def answer_nats(
    engine: LlamaCpp, data: Sequence[Rendered], scored: Heard = unheard
) -> list[tuple[float, int]]:
    """Return (nats, answer tokens) of each example, in order; ``scored`` is called for each."""
    results = []
    for rendered in data:
        targets = [place for place in range(1, len(rendered.ids)) if rendered.mask[place]]
        said = engine.logits(rendered.ids[:-1], [place - 1 for place in targets])
        nats = [nats_of(logits, rendered.ids[place]) for place, logits in zip(targets, said, strict=True)]
        results.append((sum(nats), len(targets)))
        scored(1)
    return results


def greedy_answers(
    engine: LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Example],
    max_new_tokens: int,
    answered: Heard = unheard,
) -> list[str]:
    """Return the greedy answer to each example's prompt, at most ``max_new_tokens`` long."""
    ends, form = set(generation.ends_of(engine.folder, tokenizer)), form_of(tokenizer)
    answers = []
    for record in records:
        prompt = render_prompt(record, tokenizer)
        room = min(max_new_tokens, engine.context - len(prompt))
        said = list(engine.generate(prompt, ends, max(room, 0)))
        answers.append(answer_text(said, tokenizer, form))
        answered(1)
    return answers


def choose_labels(
    engine: LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Example],
    labels: Sequence[str],
    chose: Heard = unheard,
) -> tuple[list[str], LabelTokens]:
    """Return (the likeliest label for each example, with its end token; the tokens this took)."""
    chosen, tokens = label_choice.choose(engine, list(questions(tokenizer, records, labels)), chose)
    return [labels[label] for label in chosen], tokens


def tokenized(engine: LlamaCpp, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts with llama.cpp in a separate process.

    A failed lookup ends the process (``std::out_of_range`` in C++) and cannot be caught.

    Raises:
        NoGguf: llama.cpp's tokenizer fails on them.
    """
    command = [sys.executable, "-m", "deepcuts.components.gguf.tokens", str(engine.folder)]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    done = subprocess.run(
        command, input=json.dumps(list(texts)), capture_output=True, text=True, check=False, env=paths
    )
    if done.returncode:
        said = next(
            (line for line in done.stderr.splitlines() if "what()" in line), f"status {done.returncode}"
        )
        raise NoGguf(f"llama.cpp's tokenizer fails on its vocabulary ({said.strip()[:100]})")
    found: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_vocabulary(engine: LlamaCpp, tokenizer: PreTrainedTokenizerBase, data: Sequence[Rendered]) -> int:
    """Compare both tokenizers on the examples as text; return on how many they differ.

    Raises:
        NoGguf: they differ on more than ``OTHER_TEXTS``, so a server would read other tokens.
    """
    texts = [tokenizer.decode(rendered.ids) for rendered in data]
    ours_of_all = tokenized(engine, texts)
    theirs_of_all = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    pairs = list(zip(ours_of_all, theirs_of_all, strict=True))
    other = [i for i, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if len(other) > OTHER_TEXTS * len(texts):
        ours, theirs = pairs[other[0]]
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
        raise NoGguf(
            f"llama.cpp splits {len(other)} of {len(texts)} examples into other tokens than in training "
            f"(first at token {place} of {texts[other[0]][:60]!r})"
        )
    return len(other)


def passage_scores(engine: LlamaCpp, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Score]:
    """Score each passage of general text with llama.cpp, cut at its context."""
    return general_text.score(partial(answer_nats, engine), tokenizer, texts, engine.context)
