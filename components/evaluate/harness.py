"""Run tasks of lm-evaluation-harness through its Python API on a loaded model."""

import difflib
from pathlib import Path

import lm_eval
import msgspec
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import ModelFault, judged
from deepcuts.components.training import chat_template

BATCH = 16
"""Requests per forward pass; the harness sorts them longest first."""


class HarnessResult(msgspec.Struct, frozen=True):
    """One metric of one task."""

    task: str
    metric: str
    filter: str
    """The harness's filter on answers before scoring; usually ``none``."""
    value: float
    standard_error: float | None
    """Over examples, as estimated by the harness; null if it gives none."""
    higher_is_better: bool | None
    examples: int
    shots: int
    version: str


class Judged(HFLM):  # type: ignore[misc]  # the harness has no types
    """The harness's model, with the same limits on its chat template as everywhere else."""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Apply the template to a task's turns.

        Raises:
            ModelFault: it fails, or takes too long.
        """
        fix = "correct chat_template in tokenizer_config.json"
        with judged("the chat template refuses a task", fix, kind=ModelFault), chat_template.bounded():
            return str(super().apply_chat_template(chat_history, add_generation_prompt))


def run(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: list[str]
) -> list[HarnessResult]:
    """Measure every metric of these tasks on their whole test splits, with the chat template if there is one.

    Args:
        names: Registered tasks, groups, or paths of task YAMLs, which also say where their data come from.

    Raises:
        ValueError: the harness does not know a name; suggests the closest ones.
        FileNotFoundError: a task's data are missing.
    """
    built_in = not all(Path(name).is_file() for name in names)  # reading the built-in tasks takes seconds
    known = TaskManager(include_defaults=built_in)
    check(names, known.all_tasks)
    found = lm_eval.simple_evaluate(
        Judged(pretrained=network, tokenizer=tokenizer, batch_size=BATCH),
        tasks=list(names),
        task_manager=known,
        apply_chat_template=bool(tokenizer.chat_template),
        log_samples=False,
    )
    assert found  # the main process gets a result, and this is it
    return [
        HarnessResult(
            task=task,
            metric=metric,
            filter=sieve,
            value=float(value),
            standard_error=_number(values.get(f"{metric}_stderr,{sieve}")),
            higher_is_better=found["higher_is_better"].get(task, {}).get(metric),
            examples=int(found["n-samples"][task]["effective"]) if task in found["n-samples"] else 0,
            shots=int(found["n-shot"].get(task, 0)),
            version=str(found["versions"].get(task, "")),
        )
        for task, values in found["results"].items()
        for name, value in values.items()
        for metric, _, sieve in [name.partition(",")]
        if sieve and not metric.endswith("_stderr") and isinstance(value, int | float)
    ]


def check(names: list[str], known: list[str]) -> None:
    """Check that every name is registered or is a file; raises the errors of ``run``."""
    for name in names:
        if name not in known and not Path(name).is_file():
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "lm-eval ls tasks lists them"
            raise ValueError(f"lm-eval:{name}: neither a task of lm-evaluation-harness nor a file: {hint}")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
