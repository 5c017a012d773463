"""Retrain a model in service on a new window of data, if that is worth its price."""

from kfp import dsl

from deepcuts.components.joined.prepare import fetch_and_plan
from deepcuts.components.retrain.component import retrain as decide
from deepcuts.pipelines import stages
from deepcuts.pipelines.lazy import pipeline
from deepcuts.pipelines.stages import CPU, Stages, task

SCORED = {"before": "evaluate-service/scorecard", "after": "judge/candidate"}


@pipeline(name="retrain", description="Retrain a model in service if that is worth its price.")
def retrain(
    service_uri: str = stages.EXAMPLE_BASE,
    data_uri: str = stages.EXAMPLE_DATA,
    store_uri: str = stages.STORE,
    service: str = "example",
    window: str = "",
    usd_per_unit: float = 0.01,
    predictions: int = 10_000,
    retraining_usd: float = 1.0,
    ledger_uri: str = "",
    price_ratio: float = 1.0,
    policy: str = "res",
    metric: str = "completion_loss",
    period: int = 4,
    horizon: int = 5,
    memory: int = 52,
    lease_hours: float = 48.0,
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
    """Retrain a model in service on a new window of data, if that is worth its price.

    The decision comes after the new window's test examples were scored and before anything is trained. The
    new model is released only if it holds against the one in service, on the same examples; if that one is
    the release in service, a refusal ends the run with exit code 5, so that a schedule shows it.

    Args:
        service_uri: The model in service, a whole one: folder, s3:// or hf://org/name@40-digit-commit;
            the bundled example by default.
        data_uri: Labelled data of the new window: file or folder, s3:// or hf://datasets/org/name@commit;
            the bundled example by default.
        store_uri: Where decisions, leases and checkpoints live (file:// or s3://).
        service: Name of the service; its windows are compared with each other;
            the bundled example by default.
        window: Name of the window, sortable by time (2026-W48); decided once. Empty: this week.
        usd_per_unit: Value of a unit of the metric per prediction;
            the bundled example by default.
        predictions: Per window;
            the bundled example by default.
        retraining_usd: Cost of a retraining; 0 takes it from the ledger;
            the bundled example by default.
        ledger_uri: ledger.json of the last retraining (file:// or s3://); empty for none.
        price_ratio: Current prices / those of retraining_usd or the ledger.
        policy: res, cara-threshold, cara-cumulative, ski-rental, ski-rental-random, page-hinkley, adwin,
            periodic, never or always.
        metric: completion_loss, exact_match or label_accuracy; must be in measures.
        period: Windows between two retrainings (periodic).
        horizon: Windows for which a new model is sure to serve (res).
        memory: Past windows used to tune res and CARA.
        lease_hours: Longest time from a decision to the new model in service; until then no other begins.
        format: Format of the rows: auto detects it; else one that ingest reads.
        columns: Meaning of columns if auto fails: {prompt: question_text, completion: gold}.
        config: Which of several configurations in the data folder.
        valid_share: Share of the data for watching training, without a valid file.
        test_share: Share of the data for judging models, without a test file.
        max_bad_share: Refuse data with a higher share of unusable rows.
        fold_system: Move a system turn into the first question, for templates without it.
        max_tokens: Set longer examples aside; at most recipe.seq_len.
        select_method: How a budget is spent: random (nothing beat it), coverage, target, loss.
        select_budget_tokens: Maximum tokens to train on; 0 keeps all but duplicates.
        near_threshold: Jaccard similarity from which texts are duplicates.
        word_threshold: The same for their sets of words; 1: never, as order has meaning:
            "Ann is older than Bob" has the words of "Bob is older than Ann".
        semantic_threshold: The same for the cosine of the model's states; 1: never.
        embedder_uri: A sentence-transformers model to use in their place; empty for none.
        engine: Where data is read and selected: local, on this node, or ray, on a cluster of its own.
        ray: Its size and place: {workers: 2, cpu: 2, memory: 8Gi, pool: cpu}.
        recipe: Hyperparameters that differ from the defaults.
        pool: Node pool to train on; auto: the cheapest that fits the model.
        spot: Whether to use spot pools, priced with preemptions: never or allowed.
        measures: What to score: completion_loss (always), exact_match, label_accuracy.
        max_examples: Score at most this many test examples.
        margin_nats: Largest rise of the completion loss that counts as equal quality.
        release_name: Name of the release; deepcuts chat NAME talks to it.
        base_licence: Licence of the base (SPDX), for the model card; empty if unknown.
        nodepools: Prices and speeds of node pools; default: nodepools.yaml when compiled.
        seed: Seed for the splits and the examples to score.
        data_seed: Seed for select.
    """
    given = dict(locals())
    run = Stages(
        SCORED, store_uri, measures, max_examples, margin_nats, release_name, base_licence, nodepools, seed
    )
    with run.ledger_at_end(
        curves={"finetune": "finetune/curve"}, plans={"finetune": "prepare-data/decision"}
    ):
        served = stages.fetch("fetch-service", service_uri)
        data = run.prepare(
            "prepare-data", fetch_and_plan, served, given, serve_on="cpu", candidates=["off"], teaching=""
        ).set_caching_options(False)  # the data may have grown under the same URI
        now = run.evaluate("evaluate-service", served.outputs["model"], data)
        decision = task("retrain", decide, CPU, stages.BOOKKEEPING)(
            scorecard=now.outputs["scorecard"],
            store=store_uri,
            service=service,
            window=window,
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,  # a cached decision would retrain twice
            metric=metric,
            policy=policy,
            usd_per_unit=usd_per_unit,
            predictions=predictions,
            retraining_usd=retraining_usd,
            ledger_uri=ledger_uri,
            price_ratio=price_ratio,
            period=period,
            horizon=horizon,
            memory=memory,
            lease_hours=lease_hours,
            seed=seed,
        ).set_caching_options(False)

        with dsl.If(decision.outputs["retrain"] == "true", "retrain"):
            worth = run.select(served.outputs["model"], data, given)
            run.train_and_release(served, data, worth.outputs["cut"], data.outputs["planned"], now)
