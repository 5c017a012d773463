"""Every way to prune and every number format on one model and real text: bytes, ms per token, nats; Markdown.

    python -m tests.benchmarks.compression --base MODEL --train EXAMPLES --test EXAMPLES --folder FOLDER

The model is the base fine-tuned on the examples. Each cut is written to disk, loaded again and held against
that model: bytes of the folder; time per token of decoding alternated in one process, as a ratio with a 90 %
interval, in CPU time of one thread, which a busy machine does not change; completion loss on the test split,
paired, with a 90 % interval. Pruned models are judged as cut and after healing by the training loop. What is
done stays in the folder.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from deepcuts.components.core import examples, files, scorecards
from deepcuts.components.core.progress import unheard
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.scorecards import Comparison, Score
from deepcuts.components.finetune.step import finetune
from deepcuts.components.prune.step import prune
from deepcuts.components.quantize.candidates import NAMES, FailedCandidate, Judge, measure, score
from deepcuts.components.training import calibration, latency, models
from deepcuts.components.training.latency import Latency
from deepcuts.components.training.render import Rendered

MARGIN_NATS = 0.03
AMOUNTS = {"magnitude": 0.2, "width": 0.5, "depth": 0.4, "random-depth": 0.4}
GROUP_SIZE, CALIBRATION_TOKENS = 32, 8192


class CompressionRow(NamedTuple):
    """One cut against the model it was made of."""

    name: str
    bytes_ratio: float
    latencies: dict[int, Latency]
    comparison: Comparison


def tuned(base: Path, given: argparse.Namespace, folder: Path, tokens: int, learning_rate: float) -> Path:
    """``base`` trained on the examples for ``tokens``, once."""
    if not (folder / "model").exists():
        recipe = Recipe(
            method="full",
            learning_rate=learning_rate,
            budget_tokens=tokens,
            tokens_per_step=2048,
            micro_batch_size=4,
        )
        store = (folder / "store").as_uri()
        finetune(base, given.train, given.test, folder / "model", folder / "curve.jsonl", store, recipe)
    return folder / "model"


def judge_of(model: Path, test: Path) -> Judge:
    """``model`` with its scores on all of the test examples."""
    network, tokenizer, _, _ = calibration.load_whole(model, model, model)
    records = examples.read(test)
    names = [record.id for record in records]
    data = [calibration.fitting(record, network, tokenizer) for record in records]
    scores = score(network.float(), names, data)
    return Judge(model, network, names, data, scores, MARGIN_NATS, 0, unheard)


def held(judge: Judge, name: str, folder: Path) -> CompressionRow:
    """A whole model on disk against the judge's."""
    network = models.load_base(folder)[0].float()
    scores: list[Score] = score(network, judge.names, judge.data)
    comparison = scorecards.compare([scores], [judge.scores], "completion_loss", MARGIN_NATS, 0)
    ours, theirs = (partial(latency.decode_seconds, one) for one in (judge.network, network))
    timings = {b: latency.compare(ours, theirs, b, latency.ROUNDS) for b in latency.BATCHES}
    return CompressionRow(
        name, files.size_bytes(folder) / files.size_bytes(judge.folder), timings, comparison
    )


def pruned(judge: Judge, given: argparse.Namespace, method: str) -> list[CompressionRow]:
    """As cut, and healed."""
    folder, amount = given.folder / method, AMOUNTS[method]
    if not (folder / "pruned").exists():
        prune(
            base=judge.folder,
            model=judge.folder,
            text=given.train,
            pruned=folder / "pruned",
            summary=folder / "summary.md",
            method=method,
            amount=amount,
            calibration_tokens=CALIBRATION_TOKENS,
            seed=1,  # seed 0 draws for random-depth the very blocks of 5 that depth chooses
        )
    rows = [held(judge, f"{method} {amount:.0%}", folder / "pruned")]
    if method != "magnitude":  # healing fills its zeros
        healed = tuned(folder / "pruned", given, folder / "healed", given.heal_tokens, given.heal_rate)
        rows.append(held(judge, f"{method} {amount:.0%}, healed", healed))
    return rows


def quantized(
    judge: Judge, given: argparse.Namespace, name: str, shown: list[Rendered]
) -> CompressionRow | FailedCandidate:
    """One number format."""
    folder = given.folder / name
    files.remove(folder)
    found = measure(judge, name, GROUP_SIZE, shown, folder, models.stored_dtype(judge.folder))
    if isinstance(found, FailedCandidate):
        return found
    return CompressionRow(
        name, found.bytes / files.size_bytes(judge.folder), found.latencies, found.comparison
    )


def line(row: CompressionRow | FailedCandidate) -> str:
    """A row of the table."""
    if isinstance(row, FailedCandidate):
        return f"| {row.name} | not run: {row.reason} | | | |"
    times = [f"{t.ratio:.2f} ({t.low:.2f} to {t.high:.2f})" for t in row.latencies.values()]
    gap = row.comparison
    held_to = "yes" if gap.non_inferior else "no"
    return (
        f"| {row.name} | {row.bytes_ratio:.2f} | {' | '.join(times)} "
        f"| {gap.worse_by:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) | {held_to} |"
    )


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "train", "test", "folder"):
        flags.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    flags.add_argument("--tokens", type=int, default=1_000_000)
    # the best of three of pipelines/studies/cuts.yaml
    flags.add_argument("--learning-rate", type=float, default=8e-3)
    flags.add_argument("--heal-tokens", type=int, default=250_000)
    flags.add_argument("--heal-rate", type=float, default=4e-3)
    given = flags.parse_args()
    torch.set_num_threads(1)
    latency._now = lambda device: time.process_time()
    judge = judge_of(
        tuned(given.base, given, given.folder / "reference", given.tokens, given.learning_rate), given.test
    )
    nats = sum(s.answer_nats for s in judge.scores) / sum(s.answer_tokens for s in judge.scores)
    decode = partial(latency.decode_seconds, judge.network)
    ms = {b: latency.compare(decode, decode, b, 5).reference_ms for b in latency.BATCHES}
    told = {"bytes": files.size_bytes(judge.folder), "nats": nats, "ms_per_token": ms}
    print(f"The model: {json.dumps(msgspec.to_builtins(told))}; {len(judge.data)} test examples.\n")
    print("| cut | bytes | time, batch 1 | time, batch 16 | nats per answer token | within 0.03 |")
    print("|---|--:|--:|--:|--:|---|", flush=True)
    for method in AMOUNTS:
        for row in pruned(judge, given, method):
            print(line(row), flush=True)
    tokenizer = models.load_tokenizer(judge.folder)
    shown = calibration.take(given.train, judge.network, tokenizer, CALIBRATION_TOKENS, 0)
    for name in NAMES:
        print(line(quantized(judge, given, name, shown)), flush=True)


if __name__ == "__main__":
    main()
