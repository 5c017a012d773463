"""Leave a study's findings in the store, where the ledgers of runs look for them."""

from collections.abc import Sequence

import msgspec

from deepcuts.components.core.store import open_store
from deepcuts.components.ledger.studied import FOLDER, StudiedArm, StudyRecord
from deepcuts.pipelines.studies import savings
from deepcuts.pipelines.studies.savings import RunCost, TrialResult
from deepcuts.pipelines.studies.study_spec import Study


def leave(record: StudyRecord, store_uri: str) -> str:
    """Write ``record`` into the store, in place of an earlier one of that study; return its URI.

    Raises:
        StoreError, ValueError: the store is unreachable, or not one.
    """
    store, key = open_store(store_uri), f"{FOLDER}{record.study}.json"
    store.put_bytes(key, msgspec.json.encode(record))
    return store.uri(key)


def record(study: Study, results: Sequence[TrialResult]) -> StudyRecord | None:
    """Return what the study found of each arm at each budget; None without a reference that was measured."""
    found = {saving.arm: saving for saving in savings.savings(study, results)}
    home = found.get(study.reference)
    if not home or not home.reached:
        return None
    reference = study.arm(study.reference)
    arms = dict.fromkeys((r.trial.arm, r.trial.budget_tokens) for r in results if r.trial.arm in found)
    goal = savings.chosen(results, reference.name, max(reference.budgets or study.budgets))
    base = savings.chosen(results, reference.name, home.budget_tokens)
    return StudyRecord(
        schema="study/1",
        study=study.name,
        date=max(result.ended_at for result in results)[:10],
        reference=reference.name,
        arms=[_arm(study, results, name, budget, goal, base, home.cost) for name, budget in arms],
    )


def _arm(
    study: Study,
    results: Sequence[TrialResult],
    name: str,
    budget_tokens: int,
    goal: Sequence[TrialResult],
    base: Sequence[TrialResult],
    base_cost: RunCost,
) -> StudiedArm:
    """Return one arm; the runs ``base`` of the reference cost ``base_cost`` on average, with its search."""
    mine = savings.chosen(results, name, budget_tokens)
    cost = savings.charged(study, results, name, budget_tokens)
    ours, theirs = _by_seed(mine, cost), _by_seed(base, base_cost)
    ratios = [theirs[seed] / ours[seed] for seed in ours if seed in theirs and ours[seed]]
    spread = ratios if len(ratios) > 1 else []
    return StudiedArm(
        arm=name,
        budget_tokens=budget_tokens,
        seeds=len(mine),
        train_ratio=savings.ratio(base_cost, cost),
        train_ratio_low=min(spread, default=None),
        train_ratio_high=max(spread, default=None),
        comparison=savings.compare(study, mine, goal),
        trainings=[result.trainings for result in mine],
    )


def _by_seed(runs: Sequence[TrialResult], cost: RunCost) -> dict[int, float]:
    """Return the CPU-seconds of training of each seed, each with the whole search in ``cost``."""
    searched = cost.train_cpu_seconds - savings.mean([run.cost for run in runs]).train_cpu_seconds
    return {run.trial.seed: run.cost.train_cpu_seconds + searched for run in runs}
