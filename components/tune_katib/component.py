from kfp import dsl

from deepcuts.components.core.container import container
from deepcuts.components.core.faces import flags


@dsl.container_component
def tune_katib(
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    trials: dsl.Output[dsl.Dataset],
    trial_receipts: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    best_recipe: dsl.OutputPath(dict),  # type: ignore[valid-type]
    store: str,
    recipe: dict,
    space: dict,
    algorithm: str,
    min_tokens: int,
    max_tokens: int,
    eta: int,
    brackets: int,
    configurations: int,
    parallel: int,
    seed: int,
    nodepools: dict,
    pool: str,
    trial_image: str,
    cpu: str,
    memory: str,
    max_hours: float,
    namespace: str,
    db_manager: str,
    keep: bool,
):
    """Find a Recipe on Katib: every trial is a Job on a node pool; this step only follows, on a CPU.

    Args:
        train: Examples to train on (JSONL).
        valid: Examples that trials are compared by (JSONL).
        trials: One record a trial, failed ones included, with its receipts.
        trial_receipts: One receipt a pod of a trial, for the ledger.
        summary: The best trials, and what the search saved.
        best_recipe: The recipe with the best values.
        store: Where trials and their checkpoints live (s3://); a rerun resumes from there.
        recipe: Hyperparameters that the search does not touch; see components/core/recipe.py.
        space: What to search, by hyperparameter; see components/tune/space.py.
        algorithm: asha, or Katib's own bayesianoptimization, random or tpe.
        min_tokens: Budget of the first rung (asha).
        max_tokens: Budget of the last rung, and what every trial's schedule anneals over.
        eta: A rung passes on one of eta trials, with eta times the budget (asha).
        brackets: 1 starts all at the first rung; more start some later (Hyperband).
        configurations: How many to start; asha may start half as many more to keep all pods busy.
        parallel: Trials at a time, each on a node of its own.
        seed: Draws the configurations.
        nodepools: Node pools and prices (manifests/base/nodepools.yaml).
        pool: Where trials run.
        trial_image: The train image, of trials.
        cpu: Cores of a trial; text, as plan's output is.
        memory: Of a trial, such as 24Gi.
        max_hours: Deadline of a trial's pod.
        namespace: Where the Experiment lives; empty: where this runs.
        db_manager: Host and port of Katib's database manager.
        keep: Leave the Experiment in the cluster when it has ended; a cancelled one is deleted.
    """
    return container("deepcuts.components.tune_katib.step", image="ops", receipt=receipt, **flags(locals()))
