"""Tune on Katib: the search of ``tune``, with each trial as a Job on a node pool (cut 9)."""

from pathlib import Path

import msgspec
from kubeflow_katib_api.models import V1beta1Experiment

from deepcuts.components.core import cli, files, records, strict
from deepcuts.components.core.api_server import connect
from deepcuts.components.core.bounds import Count, Positive, Seed
from deepcuts.components.core.cancel import sigterm
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.nodepools import NodePool, NodePools
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.store import Store, open_shared
from deepcuts.components.tune import report
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.checks import check, planned
from deepcuts.components.tune.inputs import deposit
from deepcuts.components.tune.space import Dimension, Space
from deepcuts.components.tune.task import TrialTask
from deepcuts.components.tune.trials import search_id
from deepcuts.components.tune_katib import algorithms, experiment, progress
from deepcuts.components.tune_katib.cluster import Katib
from deepcuts.components.tune_katib.follow import SearchOutcome, follow
from deepcuts.components.tune_katib.job import job
from deepcuts.components.tune_katib.progress import TrialAttempts

TRIAL = ["python", "-m", "deepcuts.components.tune.trial"]


@sigterm()
def tune_katib(
    base: Path,
    train: Path,
    valid: Path,
    best_recipe: Path,
    trials: Path,
    trial_receipts: Path,
    summary: Path,
    store: str,
    recipe: Recipe,
    space: dict[str, Dimension],
    algorithm: str,
    min_tokens: Count,
    max_tokens: Count,
    eta: Count,
    brackets: Count,
    configurations: Count,
    parallel: Count,
    seed: Seed,
    nodepools: NodePools,
    pool: str,
    trial_image: str,
    cpu: Positive,
    memory: str,
    max_hours: Positive,
    namespace: str,
    db_manager: str,
    keep: bool,
) -> Facts:
    """Search ``space`` with a Katib Experiment whose trials are Jobs on ``pool``, and follow it to its end.

    Running it again follows a running Experiment and does not repeat a finished one. An Experiment running at
    SIGTERM is deleted, even with ``keep``. component.py describes the arguments.
    """
    space = strict.current_names(Recipe, space, "space")
    check(recipe, space, min_tokens, valid)
    algorithms.check(algorithm, space)
    search = algorithms.narrowed(
        planned(min_tokens, max_tokens, eta, brackets, configurations), algorithm, space
    )
    node = nodepools.named(pool)
    trial_job = job(node, trial_image, TRIAL, cpu, memory, max_hours)
    objects, where = open_shared(store, "trials run in separate pods"), connect(namespace)
    digests = [files.digest(path) for path in (base, train, valid)]
    identity = search_id(digests, recipe, space, algorithm, search, seed, where)
    outcome = ended(objects, identity)
    if outcome is None:
        inputs = (base, train, valid)
        task = make_task(objects, store, identity, inputs, recipe, space, max_tokens, db_manager)
        # named by everything that cannot be changed in an existing Experiment
        name = f"deepcuts-{search_id(identity, trial_job, parallel)[:12]}"
        made = experiment.experiment(name, algorithm, search, task, trial_job, parallel, seed)
        outcome = run_to_end(made, name, Katib(where), objects, task, search, node, keep)
    write_receipts(trial_receipts, outcome)
    if outcome.end != "Succeeded":
        raise DataError(f"the Experiment failed: {why(outcome)}")
    facts = report.write(search, outcome.records, recipe, best_recipe, trials, summary)
    return facts | {"trial_usd": progress.usd(outcome.attempts, [], node)}


def make_task(
    objects: Store,
    store: str,
    search: str,
    inputs: tuple[Path, Path, Path],
    recipe: Recipe,
    space: Space,
    max_tokens: int,
    db_manager: str,
) -> TrialTask:
    """Put base, train and valid into the store; return the settings shared by all trials."""
    base, train, valid = (deposit(objects, path) for path in inputs)
    return TrialTask(
        store=store,
        search=search,
        base=base,
        train=train,
        valid=valid,
        recipe=recipe,
        space=space,
        values={},
        max_tokens=max_tokens,
        db_manager=db_manager,
    )


def run_to_end(
    made: V1beta1Experiment,
    name: str,
    katib: Katib,
    objects: Store,
    task: TrialTask,
    search: Search,
    node: NodePool,
    keep: bool,
) -> SearchOutcome:
    """Follow an Experiment to its end, and delete it unless ``keep``; a success is recorded in the store."""
    outcome = follow(katib, made, TrialAttempts(objects, task.search), task.space, search, node)
    if outcome.end == "Succeeded":
        objects.put_bytes(_key(task.search), msgspec.json.encode(outcome))
    if not keep:
        katib.delete(name)
    return outcome


def write_receipts(folder: Path, outcome: SearchOutcome) -> None:
    """Write one receipt per pod of a trial, including failed ones."""
    with files.staged(folder) as staging:
        staging.mkdir()
        for receipt in progress.charged(outcome.attempts):
            cli.write_json(staging / f"{receipt.attempt:06d}.json", receipt)


def ended(store: Store, identity: str) -> SearchOutcome | None:
    """Return the outcome of the same search if it has ended before."""
    try:
        return records.read(store, _key(identity), SearchOutcome, "delete it: the search is run again")
    except FileNotFoundError:
        return None


def why(outcome: SearchOutcome) -> str:
    """Return why it failed: Katib's message, and that of the last failed trial."""
    failed = [record for record in outcome.records if record.state == "failed"]
    return outcome.why + (
        f"; {len(failed)} trials failed, the last with: {failed[-1].problem}" if failed else ""
    )


def _key(identity: str) -> str:
    return f"searches/{identity}/outcome.json"


if __name__ == "__main__":
    cli.main(tune_katib)
