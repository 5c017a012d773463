"""Run a study, every trial as a ``deepcuts run``, and read cost and scores from its records."""

import asyncio
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import files, scorecards, step_facts, verdicts
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.orphans import end_with_parent
from deepcuts.components.core.step_facts import TrainingFacts
from deepcuts.components.ledger import charges, studied
from deepcuts.components.ledger.charges import Charge
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.runner import run_record, spec_types
from deepcuts.pipelines.studies import kept_results, study_spec
from deepcuts.pipelines.studies.savings import RunCost, TrialResult
from deepcuts.pipelines.studies.study_spec import Study, StudyTrial

Say = Callable[[str], None]


def check(
    study: Study, pipeline: spec_types.Pipeline, given: Mapping[str, Any], fills: Mapping[str, Any]
) -> None:
    """Check every arm's arguments before any is paid for.

    Raises:
        ValueError: all problems, each with its arm.
    """
    found: dict[str, str] = {}
    for trial in study_spec.trials(study):
        try:
            settings.complete(pipeline, study_spec.parameters(study, trial, given), fills)
        except ValueError as error:
            found |= {line: trial.arm for line in str(error).splitlines() if line not in found}
    if found:
        raise ValueError("\n".join(f"arm {arm}: {line}" for line, arm in found.items()))


def run(study: Study, given: Mapping[str, Any], folder: Path, parallel: int, say: Say) -> list[TrialResult]:
    """Run unfinished trials, ``parallel`` at a time; return the results of all successful ones.

    A failed trial is reported and left out: the others continue, and running again retries it. Results are
    kept in ``results.jsonl``, and then a trial's own store, a gigabyte of checkpoints on SmolLM2-135M, goes.
    """
    return asyncio.run(_run(study, given, folder, parallel, say))


async def _run(
    study: Study, given: Mapping[str, Any], folder: Path, parallel: int, say: Say
) -> list[TrialResult]:
    todo = list(study_spec.trials(study))
    kept = kept_results.read(folder / kept_results.FILE)
    content_of = functools.cache(kept_results.content_of)  # all trials have one base
    results: list[TrialResult] = []
    slots, began, spent = asyncio.Semaphore(parallel), time.monotonic(), 0

    async def one(trial: StudyTrial) -> None:
        nonlocal spent
        async with slots:
            arguments = arguments_of(study, trial, given, folder)
            inputs = kept_results.inputs_of(arguments, content_of)
            if inputs not in kept and not done(folder, trial, arguments):
                code = await _deepcuts(study, trial, arguments, folder)
                spent += 1
                if code:
                    say(f"{trial.folder}: exit code {code}, see {folder / trial.folder}.log")
                    return
            if inputs not in kept:
                kept[inputs] = read(study, trial, folder)
                kept_results.write(folder / kept_results.FILE, kept)
                files.remove(folder / trial.folder / "store")
        result = msgspec.structs.replace(kept[inputs], trial=trial)  # the arm may have another name now
        results.append(result)
        left = (time.monotonic() - began) / max(1, spent) * (len(todo) - len(results))
        say(
            f"{len(results)} of {len(todo)}  {trial.folder}  {result.loss:.3f} nats  "
            f"{result.cost.cpu_seconds:.0f} CPU-s  {left / 60:.0f} min left"
        )

    await asyncio.gather(*(one(trial) for trial in todo))
    order = {trial: number for number, trial in enumerate(todo)}
    return sorted(results, key=lambda result: order[result.trial])


def arguments_of(study: Study, trial: StudyTrial, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of the trial's pipeline.

    Each trial has its own store: runs with one identity (compiled or not, resumed or not) would resume from
    each other's checkpoints, and the second would look free.
    """
    store = (folder / trial.folder / "store").resolve().as_uri()
    return study_spec.parameters(study, trial, given) | {"store_uri": store}


def done(folder: Path, trial: StudyTrial, arguments: Mapping[str, Any]) -> bool:
    """Tell whether this trial has finished with these arguments."""
    try:
        record = run_record.read(folder / trial.folder)
    except (FileNotFoundError, ValueError):
        return False
    return record.status == "done" and all(record.arguments.get(k) == v for k, v in arguments.items())


async def _deepcuts(study: Study, trial: StudyTrial, arguments: Mapping[str, Any], folder: Path) -> int:
    """Run the trial like a user, with its output in ``TRIAL.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{trial.folder}.json"
    file.write_text(json.dumps(arguments, indent=1))
    words = ["run", study.pipeline, "-f", str(file), "--runs", str(folder), "--name", trial.folder]
    words += [word for title in study.tasks(trial.arm) for word in ("--until", title)]
    with (folder / f"{trial.folder}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deepcuts.pipelines.command.cli", *words),
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
            # one thread: CPU time is compared, and a repeat gives the same bits
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return await process.wait()


def read(study: Study, trial: StudyTrial, folder: Path) -> TrialResult:
    """Read scores and cost of a finished trial.

    Raises:
        DataError: its run has no such scorecard, or no ledger.
    """
    place = folder / trial.folder
    record = run_record.read(place)
    judges = study.judges(trial.arm)
    name, _, output = judges.partition("/")
    judged = [task for path, task in record.tasks.items() if path == name]
    ledgers = [task for task in record.tasks.values() if task.step == "ledger"]
    if not (judged and ledgers and judged[0].artifacts.get(output)):
        raise DataError(f"{place}: no scorecard {judges!r}: correct `judged` in the study")
    rows = charges.read(Path(ledgers[0].artifacts["ledger"]) / "ledger.jsonl")
    card = Path(judged[0].artifacts[output])
    return TrialResult(
        trial,
        scorecards.read(card).completion_loss.mean,
        scorecards.read_scores(card),
        cost(rows),
        studied.trainings(rows),
        record.ended_at,
    )


def cost(rows: Sequence[Charge]) -> RunCost:
    """Sum a run's cost; cached tasks count in full, because a cache is luck, not a cut."""
    trained = [found for row in rows if (found := step_facts.read(TrainingFacts, row.facts))]
    known = [row.usd for row in rows if row.usd is not None]
    return RunCost(
        cpu_seconds=sum(row.quantity.cpu_seconds for row in rows if row.quantity),
        train_cpu_seconds=sum(found.train_cpu_seconds or 0.0 for found in trained),
        wall_seconds=sum(row.quantity.node_seconds for row in rows if row.quantity),
        usd=sum(known) if len(known) == len(rows) else None,
        trained_tokens=sum(found.total_tokens or 0 for found in trained),
        verdicts={found.cut: str(found) for row in rows for found in verdicts.read(row.facts)},
    )
