"""Make GGUF candidates with llama.cpp, and judge them with it on the file that would be released.

F16 in llama.cpp is the reference of the times, so that savings are the format's, not the engine's. The loss
is compared with the trained model, so conversion errors count, too.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import files, scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.scorecards import Score
from deepcuts.components.gguf import convert, folders, scoring
from deepcuts.components.gguf.convert import NoGguf
from deepcuts.components.gguf.engine import LlamaCpp
from deepcuts.components.quantize.candidates import FailedCandidate, Judge, MeasuredCandidate
from deepcuts.components.quantize.served import GGUF
from deepcuts.components.training import latency
from deepcuts.components.training.latency import Decode

REFERENCE = "gguf-f16"


def measure(
    judge: Judge, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], scratch: Path
) -> list[MeasuredCandidate | FailedCandidate]:
    """Convert the reference, then write and measure each candidate, with F16 first as their reference.

    An unsupported format is reported as a reason, not an error, as training is already paid for.
    """
    try:
        plain = folders.write(judge.folder, tokenizer, scratch / "gguf-F16", "F16", None)
        reference = LlamaCpp(plain)
        scoring.check_vocabulary(reference, tokenizer, judge.data)
        decode = partial(latency.decode_seconds, judge.network)
        first = measured(judge, REFERENCE, reference, decode, "transformers")
        folders.check_conversion(first.comparison.worse_by)
    except (NoGguf, DataError) as error:
        return [FailedCandidate(name, str(error)) for name in names]
    found: list[MeasuredCandidate | FailedCandidate] = [first]
    for name in names:
        try:
            kind, source = GGUF[name], plain / convert.FILE
            engine = LlamaCpp(folders.write(judge.folder, tokenizer, scratch / f"gguf-{kind}", kind, source))
            found.append(measured(judge, name, engine, reference.decode_seconds, "F16 in llama.cpp"))
        except (NoGguf, DataError) as error:
            found.append(FailedCandidate(name, str(error)))
    return found


def measured(judge: Judge, name: str, engine: LlamaCpp, reference: Decode, against: str) -> MeasuredCandidate:
    """Score and time a file in llama.cpp; times alternate with those of ``reference``.

    Raises:
        NoGguf: its scores are not finite.
    """
    nats = scoring.answer_nats(engine, judge.data, judge.measured)
    if not all(math.isfinite(total) for total, _ in nats):
        raise NoGguf("its scores are not finite: the weights do not fit this format")
    scores = [Score(one, total, tokens) for one, (total, tokens) in zip(judge.names, nats, strict=True)]
    gap = scorecards.compare([scores], [judge.scores], "completion_loss", judge.margin_nats, judge.seed)
    with torch.inference_mode():
        times = {
            batch: latency.compare(reference, engine.decode_seconds, batch, latency.ROUNDS, judge.measured)
            for batch in latency.BATCHES
        }
    return MeasuredCandidate(name, engine.folder, files.size_bytes(engine.folder), times, gap, 0, against)
