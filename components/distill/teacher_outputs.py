"""Run the teacher once before training, to sample its distribution or to write the answers.

The results are kept in the store next to the checkpoints, so a resumed run does not repeat them.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.store import Store, Torn, publish, retrieve
from deepcuts.components.distill.distill_config import DistillConfig
from deepcuts.components.distill.losses import Teacher, TeacherSamples, by_key, cache
from deepcuts.components.training import models, scoring
from deepcuts.components.training.batches import plan_steps
from deepcuts.components.training.render import Rendered, render, render_prompt

STRIPPED = 2
"""Tokens of white space that an answer may lack; one this close to the limit counts as cut off."""


def made_once(store: Store, prefix: str, make: Callable[[Path], None], folder: Path) -> None:
    """Fill ``folder`` with the output of ``make``, published in the store so that it is made only once."""
    try:
        retrieve(store, prefix, folder)
    except (FileNotFoundError, Torn):
        folder.mkdir()
        make(folder)
        publish(store, folder, prefix)


def draws(
    teacher: Teacher,
    data: Sequence[Rendered],
    kd: DistillConfig,
    recipe: Recipe,
    store: Store,
    prefix: str,
) -> tuple[dict[bytes, TeacherSamples], int]:
    """Return (samples for the examples within the budget, by key; their bytes).

    Each example has its own seed, so that a larger budget draws the same samples for the first examples.
    """
    steps = plan_steps([len(rendered.ids) for rendered in data], recipe)
    used = sorted({example for step in steps for example in step.examples})
    chosen = [data[example] for example in used]
    seeds = [recipe.seed * 1_000_003 + example for example in used]

    def make(folder: Path) -> None:
        made = cache(teacher, chosen, kd.temperature, kd.cached_draws, seeds)
        tokens, entropy = zip(*made, strict=True)
        save_file({"tokens": torch.cat(tokens), "entropy": torch.cat(entropy)}, folder / "draws.safetensors")

    with tempfile.TemporaryDirectory(prefix="draws-") as scratch:
        made_once(store, f"{prefix}-{recipe.budget_tokens}", make, Path(scratch) / "draws")
        path = Path(scratch) / "draws" / "draws.safetensors"
        tensors, size = load_file(path), path.stat().st_size
    sizes = [sum(rendered.mask[1:]) for rendered in chosen]
    tokens, entropy = (torch.split(tensors[name], sizes) for name in ("tokens", "entropy"))
    return by_key(chosen, map(TeacherSamples, tokens, entropy)), size


def answers(
    teacher: Teacher,
    records: Sequence[Example],
    max_new_tokens: int,
    store: Store,
    prefix: str,
) -> list[Example]:
    """Replace the last answer of each example by the teacher's greedy one; drop unfinished ones.

    Raises:
        DataError: the teacher finished no answer.
    """

    def make(folder: Path) -> None:
        tokenizer = teacher.tokenizer
        prompts = [len(render_prompt(record, tokenizer)) for record in records]
        with teacher.charged(sum(prompts)):
            progress = ProgressLog(len(records), "answers written by the teacher", brief=True)
            texts = scoring.greedy_answers(teacher.model, tokenizer, records, max_new_tokens, progress.add)
        context = models.context_length(teacher.model)
        written = []
        for record, prompt, text in zip(records, prompts, texts, strict=True):
            tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if text and len(tokens) + STRIPPED < min(max_new_tokens, context - prompt):
                written.append(_answered(record, text))
        if not written:
            raise DataError(
                f"the teacher finished none of {len(records)} answers within {max_new_tokens} tokens: "
                "raise max_new_tokens, or fine-tune the teacher first"
            )
        examples.write(folder / "answers.jsonl", written)

    with tempfile.TemporaryDirectory(prefix="answers-") as scratch:
        made_once(store, prefix, make, Path(scratch) / "answers")
        return examples.read(Path(scratch) / "answers" / "answers.jsonl")


def fitting(records: Sequence[Example], tokenizer: PreTrainedTokenizerBase, seq_len: int) -> list[Rendered]:
    """Render the examples that fit into a row, as a teacher may write longer answers than the data.

    Raises:
        DataError: no example fits.
    """
    rendered = [render(record, tokenizer) for record in records]
    kept = [found for found in rendered if len(found.ids) <= seq_len]
    if not kept:
        raise DataError(
            f"none of the teacher's {len(records)} answers fits into a row of {seq_len} with its "
            "prompt: raise recipe.seq_len, or lower max_new_tokens"
        )
    return kept


def _answered(record: Example, text: str) -> Example:
    said = (*record.messages[:-1], Message("assistant", text))
    return msgspec.structs.replace(record, messages=said, tokens=0)
