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
    """Find a Recipe on Katib: trials are Jobs on a node pool; this step only follows, on a CPU.

    Args:
        train: Examples to train on (JSONL).
        valid: Examples for comparing trials (JSONL).
        trials: One record per trial, including failed ones, with receipts.
        trial_receipts: One receipt per pod of a trial, for the ledger.
        summary: The best trials, and what the search saved.
        best_recipe: The recipe with the best values.
        store: Where trials and their checkpoints live (s3://); a rerun resumes from there.
        recipe: Hyperparameters that are not searched; see components/core/recipe.py.
        space: What to search, by hyperparameter; see components/tune/space.py.
        algorithm: asha, or Katib's own bayesianoptimization, random or tpe.
        min_tokens: Budget of the first rung (asha).
        max_tokens: Budget of the last rung, and of every trial's schedule.
        eta: A rung promotes one of eta trials, with eta times the budget (asha).
        brackets: 1 starts all at the first rung; more start some later (Hyperband).
        configurations: How many to start; asha may start half as many more to keep all pods busy.
        parallel: Concurrent trials, one per node.
        seed: Seed of the configurations.
        nodepools: Node pools and prices (manifests/base/nodepools.yaml).
        pool: Where trials run.
        trial_image: The trials' train image.
        cpu: Cores of a trial; text, as in plan's output.
        memory: Memory of a trial, such as 24Gi.
        max_hours: Deadline of a trial's pod.
        namespace: Where the Experiment lives; empty: where this runs.
        db_manager: Host and port of Katib's database manager.
        keep: Keep the finished Experiment in the cluster; a cancelled one is deleted.
    """
    return container("deepcuts.components.tune_katib.step", image="ops", receipt=receipt, **flags(locals()))
