"""What a search costs: ours, the full grid, and Hyperband that trains every rung from the start.

    python -m tests.benchmarks.search --base MODEL --data GSM8K --folder FOLDER

27 configurations (nine rates; all weights, LoRA of rank 4, of rank 32), eta 3, 27 units of 2,048 tokens. With
each seed every configuration is trained once to the end, with a stop at each rung, as promoted trials do; the
searches are then replayed over what was recorded. That is exact: a trial anneals over the last rung's budget
whatever its own, so that one stopped at a rung is the beginning of the whole run, bit for bit on a CPU. What
is done stays in the folder: started again after an interruption it goes on. ``--confirm`` also runs the
search of seed 0 for real, as processes, and compares every loss with the replay. Prints a Markdown table.
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from deepcuts.components.core import cli
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.finetune.step import finetune
from deepcuts.components.tune import asha, sampling
from deepcuts.components.tune.asha import Search, Trial
from deepcuts.components.tune.space import Dimension, Scalar, Space, Values, grid, key
from deepcuts.components.tune.step import STARTUP, tune
from deepcuts.components.tune.trials import TrialRecord, recipe_of
from tests.benchmarks.ingested import ingested

UNIT_TOKENS, UNITS, ETA = 2048, 27, 3
MAX_TOKENS = 256
CHILD_CONFIGURATIONS = 9
"""80 MB more with each."""
RATES: list[Scalar] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2]
SPACE: Space = {
    "method": Dimension(kind="choice", values=["full", "lora"]),
    "lora_rank": Dimension(kind="choice", values=[4, 32], when={"method": ["lora"]}),
}
RECIPE = Recipe(
    tokens_per_step=512, seq_len=MAX_TOKENS, micro_batch_size=2, save_every_seconds=1e6, compile="off"
)


class Segment(NamedTuple):
    """A trial's part of a training: from the rung below to its own."""

    loss: float
    """Nats per answer token of the validation split; infinite where the training diverged."""
    tokens: int
    cpu_seconds: float
    train_cpu_seconds: float


class SearchCost(NamedTuple):
    units: float
    cpu_seconds: float
    trials: int


class SearchInputs(NamedTuple):
    base: Path
    train: Path
    valid: Path


def prepared(base: Path, data: Path, folder: Path) -> SearchInputs:
    """GSM8K as Examples of at most ``MAX_TOKENS`` tokens."""
    place = folder / "data"
    if not (place / "train").exists():
        ingested(data, base, place, MAX_TOKENS, valid_share=0.05, test_share=0.1, max_bad_share=0.001)
    return SearchInputs(base, place / "train", place / "valid")


def trained(
    inputs: SearchInputs, folder: Path, seed: int, levels: Sequence[int], values: Values
) -> list[Segment]:
    """One configuration up to the last rung; from the folder where it was trained before."""
    path = _curve(folder, seed, values)
    if not path.exists():
        segments: list[Segment] = []
        for budget in levels:
            segments.append(_segment(inputs, folder / "trials" / str(seed), seed, values, budget, levels[-1]))
            if not math.isfinite(segments[-1].loss):
                break
        cli.write_json(path, [segment._replace(loss=_text(segment.loss)) for segment in segments])
    found = [Segment(float(loss), *rest) for loss, *rest in json.loads(path.read_text())]
    return found + [Segment(math.inf, 0, 0.0, 0.0)] * (len(levels) - len(found))


def all_trained(
    inputs: SearchInputs, folder: Path, seed: int, configurations: list[Values], levels: Sequence[int]
) -> dict[str, list[Segment]]:
    """Every configuration in turn, a few in a process: malloc gives little of their memory back."""
    one = partial(trained, inputs, folder, seed, levels)
    missing = [values for values in configurations if not _curve(folder, seed, values).exists()]
    for chunk in batched(missing, CHILD_CONFIGURATIONS):
        # not max_tasks_per_child, with which Python 3.11's pool of one waits for ever after the first child
        with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            list(pool.map(one, chunk))
    return {key(values): one(values) for values in configurations}


def _curve(folder: Path, seed: int, values: Values) -> Path:
    return folder / "curves" / str(seed) / f"{key(values)}.json"


def batched(configurations: list[Values], size: int) -> Iterator[list[Values]]:
    return (configurations[first : first + size] for first in range(0, len(configurations), size))


def _segment(
    inputs: SearchInputs, folder: Path, seed: int, values: Values, budget: int, horizon: int
) -> Segment:
    recipe = recipe_of(msgspec.structs.replace(RECIPE, seed=seed), values, budget, horizon)
    began = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            facts = finetune(
                *inputs, folder / "model", folder / "curve.jsonl", (folder / "store").as_uri(), recipe
            )
        except DataError:
            return Segment(math.inf, 0, time.process_time() - began, 0.0)
    spent = time.process_time() - began
    loss, tokens, training = (float(facts[k] or 0) for k in ("valid_loss", "tokens", "train_cpu_seconds"))
    return Segment(loss, int(tokens), spent, training)


def _text(loss: float) -> Any:
    return loss if math.isfinite(loss) else "inf"


def searched(
    search: Search, space: Space, curves: dict[str, list[Segment]], seed: int, parallel: int
) -> list[tuple[Trial, Segment]]:
    """Trials in the order of their ends, each as long as its segment took, ``parallel`` at a time."""
    draw = sampling.draw(space, seed, STARTUP)
    ended: list[tuple[Trial, Segment]] = []
    running: list[tuple[float, Trial, Segment]] = []
    clock, ledger = 0.0, list[asha.RungEntry]()
    while True:
        trials = [trial for trial, _ in ended]
        trials += [trial._replace(loss=None) for _, trial, _ in running]
        work = asha.assign(search, trials, ledger, parallel - len(running), draw)
        for item in work:
            segment = curves[key(item.values)][item.rung]
            trial = Trial(item.values, item.rung, segment.loss)
            running.append((clock + segment.cpu_seconds, trial, segment))
            ledger.append(trial.entry)
        if not running:
            return ended
        first = min(running, key=lambda run: run[0])
        running.remove(first)
        clock = first[0]
        ended.append(first[1:])


def resuming(ended: Sequence[tuple[Trial, Segment]]) -> SearchCost:
    segments = [segment for _, segment in ended]
    return SearchCost(
        sum(s.tokens for s in segments) / UNIT_TOKENS, sum(s.cpu_seconds for s in segments), len(segments)
    )


def restarting(ended: Sequence[tuple[Trial, Segment]], curves: dict[str, list[Segment]]) -> SearchCost:
    """The same trials, each from the start: every segment up to its rung, start and scoring once."""
    whole = [_whole(curves[key(trial.values)][: trial.rung + 1]) for trial, _ in ended]
    return SearchCost(
        sum(tokens for tokens, _ in whole) / UNIT_TOKENS, sum(seconds for _, seconds in whole), len(whole)
    )


def full(curves: dict[str, list[Segment]]) -> SearchCost:
    whole = [_whole(curve) for curve in curves.values()]
    return SearchCost(
        sum(tokens for tokens, _ in whole) / UNIT_TOKENS, sum(seconds for _, seconds in whole), len(whole)
    )


def _whole(segments: Sequence[Segment]) -> tuple[int, float]:
    """(tokens, CPU seconds) of a training without a stop."""
    last = segments[-1]
    training = sum(segment.train_cpu_seconds for segment in segments)
    return sum(segment.tokens for segment in segments), training + last.cpu_seconds - last.train_cpu_seconds


def regret(ended: Sequence[tuple[Trial, Segment]], curves: dict[str, list[Segment]]) -> float:
    """Nats between what the search found, trained to the end, and the best of the grid."""
    found = min((trial for trial, _ in ended if trial.finished), key=lambda t: (-t.rung, t.loss))
    return curves[key(found.values)][-1].loss - min(curve[-1].loss for curve in curves.values())


def confirmed(
    inputs: SearchInputs, folder: Path, search: Search, space: Space, curves: dict[str, list[Segment]]
) -> str:
    """The search of seed 0 as real processes against its replay."""
    out = folder / "confirm"
    if not (out / "trials.jsonl").exists():
        tune(
            *inputs,
            out / "best.json",
            out / "trials.jsonl",
            out / "summary.md",
            (out / "store").as_uri(),
            msgspec.structs.replace(RECIPE, seed=0),
            space,
            search.levels[0],
            search.levels[-1],
            search.eta,
            search.brackets,
            search.configurations,
            1,
            0,
        )
    records = msgspec.json.Decoder(TrialRecord).decode_lines((out / "trials.jsonl").read_bytes())
    gaps = [abs(r.valid_loss - curves[r.key][r.rung].loss) for r in records if r.valid_loss is not None]
    real = sum(receipt.cpu_seconds for record in records for receipt in record.receipts)
    start = (real - sum(curves[r.key][r.rung].cpu_seconds for r in records)) / len(records)
    replayed = searched(search, space, curves, 0, 1)
    same = {(r.key, r.rung) for r in records} == {trial.entry for trial, _ in replayed}
    which = "the same trials as" if same else "OTHER trials than"
    processes = full(curves).cpu_seconds + len(curves) * start
    return (
        f"Seed 0 for real: {len(records)} processes, {real:,.0f} CPU seconds, {start:.1f} of them to start "
        f"each; {which} the replay, losses within {max(gaps):.1e} nats. The grid's {len(curves)} processes "
        f"would take {processes:,.0f}: where a unit is shorter than a start, fewer units are not less time."
    )


def table(rows: Sequence[tuple[int, SearchCost, SearchCost, SearchCost, float]]) -> str:
    """One line a seed and their mean; ratios are how many times ours is cheaper."""
    lines = [
        "| seed | ours: units, CPU s, trials | restarting | grid | units against grid, restarting | "
        "CPU against grid, restarting | regret, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for seed, ours, again, whole, lost in rows:
        costs = [f"{c.units:.1f}, {c.cpu_seconds:.0f}, {c.trials}" for c in (ours, again, whole)]
        ratios.append(
            [other.units / ours.units for other in (whole, again)]
            + [other.cpu_seconds / ours.cpu_seconds for other in (whole, again)]
            + [lost]
        )
        lines.append(f"| {seed} | {' | '.join(costs)} | {_cells(ratios[-1])} |")
    means = [statistics.mean(column) for column in zip(*ratios, strict=True)]
    worst = max(lost for *_, lost in ratios)
    return "\n".join([*lines, f"| mean | | | | {_cells(means)}, at most {worst:.4f} |"])


def _cells(ratios: Sequence[float]) -> str:
    grid_units, again_units, grid_cpu, again_cpu, lost = ratios
    return f"{grid_units:.2f}, {again_units:.2f} | {grid_cpu:.2f}, {again_cpu:.2f} | {lost:.4f}"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "data", "folder"):
        flags.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument("--units", type=int, default=UNITS)
    flags.add_argument("--rates", type=int, default=9, help="The first so many learning rates.")
    flags.add_argument("--parallel", type=int, default=1)
    flags.add_argument("--confirm", action="store_true", help="Also run the search of seed 0 for real.")
    given = flags.parse_args()
    inputs = prepared(given.base, given.data, given.folder)
    levels = asha.levels(UNIT_TOKENS, UNIT_TOKENS * given.units, ETA)
    space = SPACE | {"learning_rate": Dimension(kind="choice", values=RATES[: given.rates])}
    configurations = list(grid(space))
    search, rows = Search(levels, ETA, 1, len(configurations)), []
    for seed in range(given.seeds):
        curves = all_trained(inputs, given.folder, seed, configurations, levels)
        ended = searched(search, space, curves, seed, given.parallel)
        rows.append((seed, resuming(ended), restarting(ended, curves), full(curves), regret(ended, curves)))
        print(f"seed {seed} of {given.seeds} is done", flush=True)
        if seed == 0:
            first = curves
    print(f"\n{table(rows)}\n")
    if given.confirm:
        print(confirmed(inputs, given.folder, search, space, first))


if __name__ == "__main__":
    main()
