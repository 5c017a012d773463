"""Search the hyperparameters of a fine-tuning, then train once with the best; ends with a ledger."""

from deepcuts.components.joined.prepare_selected import select_and_plan
from deepcuts.components.tune.component import tune as search
from deepcuts.pipelines import stages
from deepcuts.pipelines.lazy import pipeline
from deepcuts.pipelines.stages import Stages, planned, task

SCORED = {"before": "evaluate-before/scorecard", "after": "judge/candidate"}


@pipeline(name="tune", description="Search hyperparameters, then train with the best; ends with a ledger.")
def tune(
    base_uri: str = stages.EXAMPLE_BASE,
    data_uri: str = stages.EXAMPLE_DATA,
    store_uri: str = stages.STORE,
    format: str = "auto",
    columns: dict = {},  # noqa: B006
    config: str = "",
    valid_share: float = 0.05,
    test_share: float = 0.1,
    max_bad_share: float = 0.001,
    fold_system: bool = False,
    max_tokens: int = 512,
    select_method: str = "random",
    select_budget_tokens: int = 0,
    near_threshold: float = 0.8,
    word_threshold: float = 1.0,
    semantic_threshold: float = 1.0,
    embedder_uri: str = "",
    engine: str = "local",
    ray: dict = {},  # noqa: B006
    recipe: dict = {},  # noqa: B006  (KFP writes it into the YAML)
    space: dict = stages.SPACE,
    search_min_tokens: int = 37_037,
    search_max_tokens: int = 1_000_000,
    eta: int = 3,
    brackets: int = 1,
    configurations: int = 27,
    parallel: int = 1,
    pool: str = "auto",
    spot: str = "allowed",
    measures: list = ["completion_loss"],  # noqa: B006
    max_examples: int = 500,
    margin_nats: float = 0.03,
    release_name: str = "model",
    base_licence: str = "",
    nodepools: dict = {},  # noqa: B006  (nodepools.yaml at the time of compiling)
    seed: int = 0,
    data_seed: int = 0,
):
    """Search the hyperparameters of a fine-tuning, then train once with the best; ends with a ledger.

    The last training anneals over the recipe's own budget. If that equals ``search_max_tokens``, it is the
    best trial itself and costs nothing more.

    Args:
        base_uri: The pretrained model: folder, s3:// or hf://org/name@40-digit-commit;
            the bundled example by default.
        data_uri: Training data: file or folder, s3:// or hf://datasets/org/name@40-digit-commit;
            the bundled example by default.
        store_uri: Where trials and checkpoints live (file:// or s3://); a rerun resumes from there.
        format: Format of the rows: auto detects it; else one that ingest reads.
        columns: Meaning of columns if auto fails: {prompt: question_text, completion: gold}.
        config: Which of several configurations in the data folder.
        valid_share: Share of the data for comparing trials, without a valid file.
        test_share: Share of the data for judging the model, without a test file; unseen by trials.
        max_bad_share: Refuse data with a higher share of unusable rows.
        fold_system: Move a system turn into the first question, for templates without it.
        max_tokens: Set longer examples aside; at most recipe.seq_len.
        select_method: How a budget is spent: random (nothing beat it), coverage, target, loss.
        select_budget_tokens: Maximum tokens to train on; 0 keeps all but duplicates.
        near_threshold: Jaccard similarity from which texts are duplicates.
        word_threshold: The same for their sets of words; 1: never, as order has meaning:
            "Ann is older than Bob" has the words of "Bob is older than Ann".
        semantic_threshold: The same for the cosine of the base model's states; 1: never.
        embedder_uri: A sentence-transformers model to use in their place; empty for none.
        engine: Where data is read and selected: local, on this node, or ray, on a cluster of its own.
        ray: Its size and place: {workers: 2, cpu: 2, memory: 8Gi, pool: cpu}.
        recipe: Hyperparameters that differ from the defaults and are not searched.
        space: Hyperparameters to search: kind (float, int, choice), min, max, log, values, when.
        search_min_tokens: Budget of the first rung.
        search_max_tokens: Budget of the last rung, and of every trial's schedule.
        eta: A rung passes on one of eta trials, with eta times the budget.
        brackets: 1 starts all at the first rung; more start some later (Hyperband).
        configurations: How many to start.
        parallel: Concurrent trials on one node.
        pool: Node pool to train on; auto: the cheapest that fits the model.
        spot: Whether to use spot pools, priced with preemptions: never or allowed.
        measures: What to score before and after: completion_loss (always), exact_match, label_accuracy.
        max_examples: Score at most this many test examples.
        margin_nats: Largest rise of the completion loss that counts as equal quality.
        release_name: Name of the release; deepcuts chat NAME talks to it.
        base_licence: Licence of the base (SPDX), for the model card; empty if unknown.
        nodepools: Prices and speeds of node pools; default: nodepools.yaml when compiled.
        seed: Seed for splits, examples to score and configurations.
        data_seed: Seed for select.
    """
    given = dict(locals())
    run = Stages(
        SCORED, store_uri, measures, max_examples, margin_nats, release_name, base_licence, nodepools, seed
    )
    with run.ledger_at_end(curves={"finetune": "finetune/curve"}, plans={"finetune": "prepare/decision"}):
        base = stages.fetch("fetch-model", base_uri)
        data = run.prepare("prepare", select_and_plan, base, given)
        found = task("tune", search, planned(data, "train"), stages.SEARCH_HOURS)(
            base=base.outputs["model"],
            train=data.outputs["train"],
            valid=data.outputs["valid"],
            store=store_uri,
            recipe=data.outputs["planned"],
            space=space,
            min_tokens=search_min_tokens,
            max_tokens=search_max_tokens,
            eta=eta,
            brackets=brackets,
            configurations=configurations,
            parallel=parallel,
            seed=seed,
        )
        before = run.evaluate("evaluate-before", base.outputs["model"], data)
        run.train_and_release(
            base, data, data.outputs["train"], found.outputs["best_recipe"], before, found.outputs["summary"]
        )
