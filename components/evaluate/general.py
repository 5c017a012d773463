"""General text, scored next to the task: what a model forgot while it learned (measure ``general``)."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.scorecards import Score
from deepcuts.components.gguf import scoring as gguf_scoring
from deepcuts.components.gguf.engine import Engine
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import AnswerLoss
from deepcuts.components.training.render import Rendered

MEASURE = "general"
"""``general`` for the text that ships, ``general:FILE`` for passages of your own, split by blank lines."""
SHIPPED = Path(__file__).parent / "general.txt"


def path_of(measures: Sequence[str]) -> Path | None:
    """Return the text that the measures ask for; None if they do not."""
    for measure in measures:
        if measure == MEASURE or measure.startswith(f"{MEASURE}:"):
            return Path(measure.partition(":")[2] or SHIPPED)
    return None


def passages(path: Path) -> list[str]:
    """Return the passages of a text.

    Raises:
        DataError: fewer than two, between which no interval can be.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a text after {MEASURE}:, or {MEASURE} alone")
    parts = path.read_text(encoding="utf-8").split("\n\n")
    found = [" ".join(part.split()) for part in parts if part.strip()]
    if len(found) < 2:
        raise DataError(f"{path} has {len(found)} passages: separate at least two by a blank line")
    return found


def score(
    network: PreTrainedModel | Engine, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[Score]:
    """Nats of every token of each passage but the first, without a chat template, cut at the context."""
    in_llama = isinstance(network, Engine)
    context = network.context if in_llama else models.context_length(network)
    rows = [tokenizer(text, verbose=False)["input_ids"][:context] for text in texts]
    data = [Rendered(row, [0] + [1] * (len(row) - 1)) for row in rows]
    if in_llama:
        nats = gguf_scoring.answer_nats(network, data)
    else:
        nats = scoring.answer_nats(AnswerLoss(network), data)
    return [Score(f"general-{number}", total, tokens) for number, (total, tokens) in enumerate(nats)]
