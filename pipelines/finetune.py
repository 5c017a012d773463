"""Fine-tune a pretrained model on your data: from raw rows to a trained model and what it cost."""

from kfp import dsl

from components.accept.component import accept
from components.curriculum.component import curriculum
from components.evaluate.component import evaluate
from components.fetch.component import fetch_data, fetch_model
from components.finetune.component import finetune as train
from components.ingest.component import ingest
from components.ledger.component import ledger_of
from components.plan.component import plan
from components.publish.component import publish
from components.quantize.component import quantize
from components.select.component import select
from components.watch.component import watch
from pipelines.placement import on, told_of
from pipelines.settings import pool, prices

CPU, GPU = pool("cpu"), pool("gpu")
MAX_NEW_TOKENS = 64
"""Longest greedy answer for exact_match: a label, a number or a sentence."""
GROUP_SIZE, CALIBRATION_TOKENS = 32, 8192
"""Columns that share a 4-bit scale, and text for GPTQ: what small models stand."""
RESERVE_SHARE = 0.1
"""Of a budget, kept for what comes after training: scoring, quantizing and gates, on cheap nodes."""
POLL_SECONDS = 5.0
STALE_SECONDS = 3600.0
"""How long the watcher waits for a sign of life: a GPU node may have to start, and saves are 300 s apart."""

ledger = ledger_of(
    steps=(
        "fetch_model",
        "fetch_data",
        "ingest",
        "select",
        "curriculum",
        "plan",
        "finetune",
        "watch",
        "evaluate_before",
        "evaluate_after",
        "accept",
        "quantize",
        "evaluate_served",
        "accept_served",
    ),
    scorecards=("before", "after", "served"),
    curves=("finetune", "watch"),
    plans=("finetune",),
)


@dsl.pipeline(name="finetune", description="Fine-tune a pretrained model; ends with a ledger.")
def finetune(
    base_uri: str,
    data_uri: str,
    store_uri: str,
    format: str = "auto",
    columns: dict = {},  # noqa: B006
    config: str = "",
    valid_share: float = 0.05,
    test_share: float = 0.1,
    max_bad_share: float = 0.001,
    max_tokens: int = 512,
    select_method: str = "random",
    select_budget_tokens: int = 0,
    near_threshold: float = 0.8,
    word_threshold: float = 1.0,
    semantic_threshold: float = 1.0,
    embedder_uri: str = "",
    curriculum_signal: str = "none",
    curriculum_pacing: str = "root",
    curriculum_phases: int = 4,
    recipe: dict = {},  # noqa: B006  (KFP writes it into the YAML)
    deadline_hours: float = 0.0,
    budget_usd: float = 0.0,
    patience: int = 0,
    measures: list = ["answer_loss"],  # noqa: B006
    max_examples: int = 500,
    margin_nats: float = 0.03,
    quantize_candidates: list = ["int8-dynamic", "int8-weight", "int4-weight"],  # noqa: B006
    quantize_objective: str = "latency",
    release_name: str = "model",
    base_licence: str = "",
    nodepools: dict = prices(),  # noqa: B008
    seed: int = 0,
    data_seed: int = 0,
):
    """Fine-tune a pretrained model; ends with a ledger.

    Args:
        base_uri: The pretrained model: folder, s3:// or hf://org/name@40-digit-commit.
        data_uri: Training data: file or folder, s3:// or hf://datasets/org/name@40-digit-commit.
        store_uri: Where checkpoints live (file:// or s3://); a rerun goes on from the newest.
        format: How rows look: auto finds out; else one of the formats that ingest reads.
        columns: What columns mean, where format does not find out: {prompt: question_text, completion: gold}.
        config: Which of several configurations in the data folder.
        valid_share: Share of the data to watch training by, where it has no valid file.
        test_share: Share of the data to judge the model by, where it has no test file.
        max_bad_share: Refuse the data above this share of unusable rows.
        max_tokens: Set longer examples aside; at most recipe.block_length.
        select_method: How a budget is spent: random (nothing beat it), coverage, target, loss.
        select_budget_tokens: Most tokens to train on; 0 to keep all that is no duplicate.
        near_threshold: Two texts are one from this Jaccard similarity on.
        word_threshold: Or from this Jaccard similarity of their sets of words on; 1 for never, as order has
            meaning: the words of "Ann is older than Bob" are those of "Bob is older than Ann".
        semantic_threshold: Or from this cosine of the base model's states on; 1 for never.
        embedder_uri: A sentence-transformers model that compares in their place; empty for none.
        curriculum_signal: What is hard: none, length, loss, compression, diversity, column, random.
        curriculum_pacing: How fast harder examples come in: linear, root or step.
        curriculum_phases: Parts of equal tokens, each open to more examples than the one before.
        recipe: Hyperparameters that differ from the defaults.
        deadline_hours: Refuse to train what will not be done by then; 0 is no deadline.
        budget_usd: Refuse training that costs more (p50), and end it at a checkpoint in time; 0: no bound.
        patience: Stop early after so many scored checkpoints without a gain beyond chance; 0 means never.
        measures: What to score before and after: answer_loss (always), exact_match, label_accuracy.
        max_examples: Score at most so many test examples.
        margin_nats: Largest rise of the answer loss that counts as equal quality.
        quantize_candidates: Formats to try; also w8a8, w4a16, gptq-w4a16, fp8.
        quantize_objective: What is to be cheaper: bytes, latency (batch 1) or throughput (batch 16).
        release_name: Under which the result is in service; deepcuts chat NAME talks to it.
        base_licence: Licence of the base (SPDX), for the model card; empty when unknown.
        nodepools: Prices and speeds of node pools; the default is nodepools.yaml at the time of compiling.
        seed: Draws the splits and the examples to score.
        data_seed: Draws what select and curriculum leave to chance.
    """
    base = on(CPU, fetch_model(uri=base_uri), cpu=1, memory="4Gi", max_hours=2)
    base.set_display_name("Fetch model")
    raw = on(CPU, fetch_data(uri=data_uri), cpu=1, memory="4Gi", max_hours=2)
    raw.set_display_name("Fetch data")

    corpus = ingest(
        raw=raw.outputs["data"],
        base=base.outputs["model"],
        format=format,
        columns=columns,
        config=config,
        valid_share=valid_share,
        test_share=test_share,
        max_bad_share=max_bad_share,
        max_tokens=max_tokens,
        seed=seed,
    )
    on(CPU, corpus, cpu=2, memory="8Gi", max_hours=4).set_display_name("Ingest")

    worth = select(
        base=base.outputs["model"],
        corpus=corpus.outputs["train"],
        valid=corpus.outputs["valid"],
        test=corpus.outputs["test"],
        method=select_method,
        budget_tokens=select_budget_tokens,
        near_threshold=near_threshold,
        word_threshold=word_threshold,
        semantic_threshold=semantic_threshold,
        embedder_uri=embedder_uri,
        seed=data_seed,
    )
    on(CPU, worth, cpu=3, memory="12Gi", max_hours=12).set_display_name("Select")

    ordered = curriculum(
        base=base.outputs["model"],
        cut=worth.outputs["cut"],
        signal=curriculum_signal,
        pacing=curriculum_pacing,
        phases=curriculum_phases,
        recipe=recipe,
        seed=data_seed,
    )
    on(CPU, ordered, cpu=3, memory="12Gi", max_hours=12).set_display_name("Curriculum")

    fit = plan(
        base=base.outputs["model"],
        receipt_fetch_model=base.outputs["receipt"],
        receipt_fetch_data=raw.outputs["receipt"],
        receipt_ingest=corpus.outputs["receipt"],
        receipt_select=worth.outputs["receipt"],
        receipt_curriculum=ordered.outputs["receipt"],
        recipe=recipe,
        nodepools=nodepools,
        deadline_hours=deadline_hours,
        budget_usd=budget_usd,
        reserve_share=RESERVE_SHARE,
        objective="cheapest",
        answer_share=1.0,
        pool=GPU.name,
        beside=CPU.name,
        calibrate={},
    )
    on(CPU, fit, cpu=1, memory="2Gi", max_hours=1).set_display_name("Plan")

    tuned = train(
        base=base.outputs["model"],
        train=ordered.outputs["curriculum"],
        valid=corpus.outputs["valid"],
        store=store_uri,
        recipe=fit.outputs["planned"],
    )
    on(GPU, tuned, cpu=6, memory="24Gi", max_hours=24).set_display_name("Fine-tune")

    watched = watch(
        base=base.outputs["model"],
        train=ordered.outputs["curriculum"],
        valid=corpus.outputs["valid"],
        store=store_uri,
        recipe=fit.outputs["planned"],
        patience=patience,
        poll_seconds=POLL_SECONDS,
        stale_seconds=STALE_SECONDS,
    )
    on(CPU, watched, cpu=3, memory="12Gi", max_hours=24).set_display_name("Watch")

    before = evaluate(
        base=base.outputs["model"],
        model=base.outputs["model"],
        split=corpus.outputs["test"],
        labels=corpus.outputs["labels"],
        store=store_uri,
        measures=measures,
        max_examples=max_examples,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
    )
    on(CPU, before, cpu=3, memory="12Gi", max_hours=6).set_display_name("Evaluate before")

    after = evaluate(
        base=base.outputs["model"],
        model=tuned.outputs["model"],
        split=corpus.outputs["test"],
        labels=corpus.outputs["labels"],
        store=store_uri,
        measures=measures,
        max_examples=max_examples,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
    )
    on(CPU, after, cpu=3, memory="12Gi", max_hours=6).set_display_name("Evaluate after")

    gate = accept(
        candidate_model=tuned.outputs["model"],
        reference_model=base.outputs["model"],
        candidate=after.outputs["scorecard"],
        reference=before.outputs["scorecard"],
        metric="answer_loss",
        margin=margin_nats,
        seed=seed,
    )
    on(CPU, gate, cpu=1, memory="2Gi", max_hours=1).set_display_name("Accept")

    small = quantize(
        base=base.outputs["model"],
        model=gate.outputs["accepted"],
        text=ordered.outputs["curriculum"],
        split=corpus.outputs["valid"],
        candidates=quantize_candidates,
        objective=quantize_objective,
        margin_nats=margin_nats,
        group_size=GROUP_SIZE,
        calibration_tokens=CALIBRATION_TOKENS,
        max_examples=max_examples,
        seed=seed,
    )
    on(CPU, small, cpu=3, memory="12Gi", max_hours=6).set_display_name("Quantize")

    served = evaluate(
        base=base.outputs["model"],
        model=small.outputs["chosen"],
        split=corpus.outputs["test"],
        labels=corpus.outputs["labels"],
        store=store_uri,
        measures=measures,
        max_examples=max_examples,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
    )
    on(CPU, served, cpu=3, memory="12Gi", max_hours=6).set_display_name("Evaluate served")

    last = accept(
        candidate_model=small.outputs["chosen"],
        reference_model=gate.outputs["accepted"],
        candidate=served.outputs["scorecard"],
        reference=gate.outputs["scorecard"],
        metric="answer_loss",
        margin=margin_nats,
        seed=seed,
    )
    on(CPU, last, cpu=1, memory="2Gi", max_hours=1).set_display_name("Accept served")

    bill = ledger(
        nodepools=nodepools,
        margin_nats=margin_nats,
        receipt_fetch_model=base.outputs["receipt"],
        receipt_fetch_data=raw.outputs["receipt"],
        receipt_ingest=corpus.outputs["receipt"],
        receipt_select=worth.outputs["receipt"],
        receipt_curriculum=ordered.outputs["receipt"],
        receipt_plan=fit.outputs["receipt"],
        receipt_finetune=tuned.outputs["receipt"],
        receipt_evaluate_before=before.outputs["receipt"],
        receipt_evaluate_after=after.outputs["receipt"],
        receipt_watch=watched.outputs["receipt"],
        receipt_accept=gate.outputs["receipt"],
        receipt_quantize=small.outputs["receipt"],
        receipt_evaluate_served=served.outputs["receipt"],
        receipt_accept_served=last.outputs["receipt"],
        scorecard_before=before.outputs["scorecard"],
        scorecard_after=after.outputs["scorecard"],
        scorecard_served=served.outputs["scorecard"],
        curve_finetune=tuned.outputs["curve"],
        curve_watch=watched.outputs["curve"],
        plan_finetune=fit.outputs["decision"],
    ).ignore_upstream_failure()  # a failed run has cost money, too
    on(CPU, told_of("mlflow", bill), cpu=1, memory="2Gi", max_hours=1).set_display_name("Ledger")

    release = publish(
        model=last.outputs["accepted"],
        base=base.outputs["model"],
        candidate=served.outputs["scorecard"],
        reference=gate.outputs["scorecard"],
        verdict=last.outputs["verdict"],
        accept_receipt=last.outputs["receipt"],
        model_receipt=base.outputs["receipt"],
        data_receipt=raw.outputs["receipt"],
        ledger=bill.outputs["ledger"],
        base_licence=base_licence,
        store=store_uri,
        name=release_name,
    )
    on(CPU, told_of("registry", release), cpu=2, memory="8Gi", max_hours=2).set_display_name("Publish")
