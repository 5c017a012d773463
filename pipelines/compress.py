"""Compress a model: cut what matters least, heal it on your data, store it in fewer bits, and judge it."""

from kfp import dsl

from components.accept.component import accept
from components.distill.component import distill
from components.evaluate.component import evaluate
from components.fetch.component import fetch_data, fetch_model
from components.ingest.component import ingest
from components.ledger.component import ledger_of
from components.prune.component import prune
from components.publish.component import publish
from components.quantize.component import quantize
from pipelines.placement import on, told_of
from pipelines.settings import pool, prices

CPU, GPU = pool("cpu"), pool("gpu")
MAX_NEW_TOKENS = 64
"""Longest greedy answer for exact_match: a label, a number or a sentence."""
GROUP_SIZE, CALIBRATION_TOKENS = 32, 8192
"""Columns that share a 4-bit scale, and text to measure importance on and for GPTQ."""
TEMPERATURE, CROSS_ENTROPY_WEIGHT = 2.0, 0.5
"""Healing by the uncut model: its distributions at this temperature, beside the answers' own loss."""
MAX_ANSWER_TOKENS = 256
"""Longest answer that the uncut model writes (sequence)."""

ledger = ledger_of(
    steps=(
        "fetch_model",
        "fetch_data",
        "ingest",
        "prune",
        "heal",
        "evaluate_before",
        "evaluate_pruned",
        "accept_pruned",
        "quantize",
        "evaluate_after",
        "accept",
    ),
    scorecards=("before", "pruned", "after"),
    curves=("heal",),
)


@dsl.pipeline(name="compress", description="Prune, heal and quantize a model; ends with a ledger.")
def compress(
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
    prune_method: str = "width",
    prune_amount: float = 0.2,
    heal_method: str = "none",
    recipe: dict = {"method": "full", "learning_rate": 1e-3},  # noqa: B006  (KFP writes it into the YAML)
    quantize_candidates: list = ["int8-dynamic", "int8-weight", "int4-weight"],  # noqa: B006
    quantize_objective: str = "bytes",
    measures: list = ["answer_loss"],  # noqa: B006
    max_examples: int = 500,
    margin_nats: float = 0.03,
    release_name: str = "model",
    base_licence: str = "",
    nodepools: dict = prices(),  # noqa: B008
    seed: int = 0,
):
    """Prune, heal and quantize a model that is good at the data; ends with a ledger.

    The pruned and healed model goes on only if it is no worse than the model it was made of, else that does;
    the same holds for the quantized one, against the model it was made of and on other examples.

    Args:
        base_uri: The model to compress: folder, s3:// or hf://org/name@40-digit-commit.
        data_uri: Data to heal on: file or folder, s3:// or hf://datasets/org/name@40-digit-commit.
        store_uri: Where checkpoints live (file:// or s3://); a rerun goes on from the newest.
        format: How rows look: auto finds out; else one of the formats that ingest reads.
        columns: What columns mean, where format does not find out: {prompt: question_text, completion: gold}.
        config: Which of several configurations in the data folder.
        valid_share: Share of the data to choose the number format by, where it has no valid file.
        test_share: Share of the data to judge the model by, where it has no test file.
        max_bad_share: Refuse the data above this share of unusable rows.
        max_tokens: Set longer examples aside; at most recipe.block_length.
        prune_method: width, depth, random-depth (the control of depth), or magnitude, which saves nothing as
            stored and served, and whose zeros healing fills again.
        prune_amount: Share to cut, between 0 and 1.
        heal_method: What heals beside the answers: none (the training loop alone), or the uncut model as a
            teacher: forward-kl, reverse-kl, or sequence for answers that it writes.
        recipe: Hyperparameters of the healing, by whatever method; budget_tokens bounds it.
        quantize_candidates: Formats to try; also w8a8, w4a16, gptq-w4a16, fp8.
        quantize_objective: What is to be cheaper: bytes, latency (batch 1) or throughput (batch 16).
        measures: What to score: answer_loss (always), exact_match, label_accuracy.
        max_examples: Score at most so many test examples.
        margin_nats: Largest rise of the answer loss that counts as equal quality, at each of the two gates.
        release_name: Under which the result is in service; deepcuts chat NAME talks to it.
        base_licence: Licence of the base (SPDX), for the model card; empty when unknown.
        nodepools: Prices and speeds of node pools; the default is nodepools.yaml at the time of compiling.
        seed: Draws the splits, the calibration text and the examples to score.
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

    cut = prune(
        base=base.outputs["model"],
        model=base.outputs["model"],
        text=corpus.outputs["train"],
        method=prune_method,
        amount=prune_amount,
        calibration_tokens=CALIBRATION_TOKENS,
        seed=seed,
    )
    on(CPU, cut, cpu=3, memory="12Gi", max_hours=6).set_display_name("Prune")

    healed = distill(
        teacher=base.outputs["model"],
        base=cut.outputs["pruned"],
        train=corpus.outputs["train"],
        valid=corpus.outputs["valid"],
        store=store_uri,
        recipe=recipe,
        layers="all",
        config={},
        method=heal_method,
        temperature=TEMPERATURE,
        cross_entropy_weight=CROSS_ENTROPY_WEIGHT,
        hidden_weight=0.0,  # a narrower model's states have no counterpart
        cached_draws=0,
        max_new_tokens=MAX_ANSWER_TOKENS,
        extra_tokens=0,
    )
    on(GPU, healed, cpu=6, memory="24Gi", max_hours=24).set_display_name("Heal")

    def scored(name: str, model: object) -> dsl.PipelineTask:
        task = evaluate(
            base=base.outputs["model"],
            model=model,
            split=corpus.outputs["test"],
            labels=corpus.outputs["labels"],
            store=store_uri,
            measures=measures,
            max_examples=max_examples,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed,
        )
        return on(CPU, task, cpu=3, memory="12Gi", max_hours=6).set_display_name(name)

    before = scored("Evaluate before", base.outputs["model"])
    pruned = scored("Evaluate pruned", healed.outputs["model"])

    gate = accept(
        candidate_model=healed.outputs["model"],
        reference_model=base.outputs["model"],
        candidate=pruned.outputs["scorecard"],
        reference=before.outputs["scorecard"],
        metric="answer_loss",
        margin=margin_nats,
        seed=seed,
    )
    on(CPU, gate, cpu=1, memory="2Gi", max_hours=1).set_display_name("Accept pruned")

    small = quantize(
        base=base.outputs["model"],
        model=gate.outputs["accepted"],
        text=corpus.outputs["train"],
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

    after = scored("Evaluate after", small.outputs["chosen"])

    last = accept(
        candidate_model=small.outputs["chosen"],
        reference_model=gate.outputs["accepted"],
        candidate=after.outputs["scorecard"],
        reference=gate.outputs["scorecard"],
        metric="answer_loss",
        margin=margin_nats,
        seed=seed,
    )
    on(CPU, last, cpu=1, memory="2Gi", max_hours=1).set_display_name("Accept")

    bill = ledger(
        nodepools=nodepools,
        margin_nats=margin_nats,
        receipt_fetch_model=base.outputs["receipt"],
        receipt_fetch_data=raw.outputs["receipt"],
        receipt_ingest=corpus.outputs["receipt"],
        receipt_prune=cut.outputs["receipt"],
        receipt_heal=healed.outputs["receipt"],
        receipt_evaluate_before=before.outputs["receipt"],
        receipt_evaluate_pruned=pruned.outputs["receipt"],
        receipt_accept_pruned=gate.outputs["receipt"],
        receipt_quantize=small.outputs["receipt"],
        receipt_evaluate_after=after.outputs["receipt"],
        receipt_accept=last.outputs["receipt"],
        scorecard_before=before.outputs["scorecard"],
        scorecard_pruned=pruned.outputs["scorecard"],
        scorecard_after=after.outputs["scorecard"],
        curve_heal=healed.outputs["curve"],
    ).ignore_upstream_failure()  # a failed run has cost money, too
    on(CPU, told_of("mlflow", bill), cpu=1, memory="2Gi", max_hours=1).set_display_name("Ledger")

    release = publish(
        model=last.outputs["accepted"],
        base=base.outputs["model"],
        candidate=after.outputs["scorecard"],
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
