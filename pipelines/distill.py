"""Distill a teacher into a smaller student on your data, beside the same student without a teacher."""

from kfp import dsl

from components.accept.component import accept
from components.distill.component import distill as train
from components.evaluate.component import evaluate
from components.fetch.component import fetch_data, fetch_model
from components.ingest.component import ingest
from components.ledger.component import ledger_of
from components.publish.component import publish
from components.select.component import select
from pipelines.placement import on, told_of
from pipelines.settings import pool, prices

CPU, GPU = pool("cpu"), pool("gpu")
MAX_NEW_TOKENS = 64
"""Longest greedy answer for exact_match."""
ANY_GAIN = 1e-6
"""Margin of the student over the control: both cost the same, so the teacher must have made it better."""

ledger = ledger_of(
    steps=(
        "fetch_teacher",
        "fetch_student",
        "fetch_data",
        "ingest",
        "select",
        "distill",
        "control",
        "evaluate_teacher",
        "evaluate_student",
        "evaluate_control",
        "accept_over_control",
        "evaluate_best",
        "accept",
    ),
    scorecards=("before", "after", "student", "control"),
    curves=("distill", "control"),
)


@dsl.pipeline(name="distill", description="Distill a teacher into a smaller student; ends with a ledger.")
def distill(
    teacher_uri: str,
    student_uri: str,
    data_uri: str,
    store_uri: str,
    format: str = "auto",
    columns: dict = {},  # noqa: B006
    data_config: str = "",
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
    recipe: dict = {"method": "full", "learning_rate": 1e-3},  # noqa: B006  (KFP writes it into the YAML)
    layers: str = "every-2",
    config: dict = {},  # noqa: B006
    method: str = "forward-kl",
    temperature: float = 2.0,
    cross_entropy_weight: float = 0.5,
    hidden_weight: float = 0.0,
    cached_draws: int = 0,
    max_new_tokens: int = 256,
    measures: list = ["answer_loss"],  # noqa: B006
    max_examples: int = 500,
    margin_nats: float = 0.03,
    release_name: str = "model",
    base_licence: str = "",
    nodepools: dict = prices(),  # noqa: B008
    seed: int = 0,
    data_seed: int = 0,
):
    """Distill a teacher into a smaller student; ends with a ledger.

    The student goes on only if it is better than the same student trained without a teacher at equal cost,
    else that control does; and the teacher goes on in place of either that is worse than it by the margin.

    Args:
        teacher_uri: The model to learn from, good at the data: folder, s3:// or hf://org/name@40-digit-commit.
        student_uri: What the student is made of: the teacher again, or a smaller model of its vocabulary.
        data_uri: Training data: file or folder, s3:// or hf://datasets/org/name@40-digit-commit.
        store_uri: Where checkpoints live (file:// or s3://); a rerun goes on from the newest.
        format: How rows look: auto finds out; else one of the formats that ingest reads.
        columns: What columns mean, where format does not find out: {prompt: question_text, completion: gold}.
        data_config: Which of several configurations in the data folder (config in other pipelines).
        valid_share: Share of the data to watch training by, where it has no valid file.
        test_share: Share of the data to judge the models by, where it has no test file.
        max_bad_share: Refuse the data above this share of unusable rows.
        max_tokens: Set longer examples aside; at most recipe.block_length.
        select_method: How a budget is spent: random (nothing beat it), coverage, target, loss.
        select_budget_tokens: Most tokens to train on; 0 to keep all that is no duplicate.
        near_threshold: Two texts are one from this Jaccard similarity on.
        word_threshold: Or from this Jaccard similarity of their sets of words on; 1 for never, as order has
            meaning: the words of "Ann is older than Bob" are those of "Bob is older than Ann".
        semantic_threshold: Or from this cosine of the teacher's states on; 1 for never.
        embedder_uri: A sentence-transformers model that compares in their place; empty for none.
        recipe: Hyperparameters; what is not in it has the Recipe's default.
        layers: Layers the student keeps: all, every-2, or indices such as 0,2,4.
        config: Settings that differ, for a student of random weights; empty for none.
        method: forward-kl, reverse-kl, or sequence for answers that the teacher writes.
        temperature: At which distributions are compared.
        cross_entropy_weight: Share of the answers' own loss beside the teacher's.
        hidden_weight: Weight of the distance of hidden states; 0 for none.
        cached_draws: Draws a token, made once before training; 0 asks the teacher at every step.
        max_new_tokens: Longest answer that the teacher writes (sequence).
        measures: What to score: answer_loss (always), exact_match, label_accuracy.
        max_examples: Score at most so many test examples.
        margin_nats: Largest rise of the answer loss over the teacher's that counts as equal quality.
        release_name: Under which the result is in service; deepcuts chat NAME talks to it.
        base_licence: Licence of teacher and student (SPDX), for the model card; empty when unknown.
        nodepools: Prices and speeds of node pools; the default is nodepools.yaml at the time of compiling.
        seed: Draws the splits and the examples to score.
        data_seed: Draws what select leaves to chance.
    """
    teacher = on(CPU, fetch_model(uri=teacher_uri), cpu=1, memory="4Gi", max_hours=2)
    teacher.set_display_name("Fetch teacher")
    base = on(CPU, fetch_model(uri=student_uri), cpu=1, memory="4Gi", max_hours=2)
    base.set_display_name("Fetch student")
    raw = on(CPU, fetch_data(uri=data_uri), cpu=1, memory="4Gi", max_hours=2)
    raw.set_display_name("Fetch data")

    corpus = ingest(
        raw=raw.outputs["data"],
        base=teacher.outputs["model"],
        format=format,
        columns=columns,
        config=data_config,
        valid_share=valid_share,
        test_share=test_share,
        max_bad_share=max_bad_share,
        max_tokens=max_tokens,
        seed=seed,
    )
    on(CPU, corpus, cpu=2, memory="8Gi", max_hours=4).set_display_name("Ingest")

    worth = select(
        base=teacher.outputs["model"],
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

    def trained(name: str, method: str, extra_tokens: int) -> dsl.PipelineTask:
        task = train(
            teacher=teacher.outputs["model"],
            base=base.outputs["model"],
            train=worth.outputs["cut"],
            valid=corpus.outputs["valid"],
            store=store_uri,
            recipe=recipe,
            layers=layers,
            config=config,
            method=method,
            temperature=temperature,
            cross_entropy_weight=cross_entropy_weight,
            hidden_weight=hidden_weight,
            cached_draws=cached_draws,
            max_new_tokens=max_new_tokens,
            extra_tokens=extra_tokens,
        )
        return on(GPU, task, cpu=6, memory="24Gi", max_hours=24).set_display_name(name)

    def scored(name: str, model: object) -> dsl.PipelineTask:
        task = evaluate(
            base=teacher.outputs["model"],
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

    student = trained("Distill", method, 0)
    control = trained("Control without teacher", "none", student.outputs["worth_tokens"])
    of_teacher = scored("Evaluate teacher", teacher.outputs["model"])
    of_student = scored("Evaluate student", student.outputs["model"])
    of_control = scored("Evaluate control", control.outputs["model"])

    over_control = accept(
        candidate_model=student.outputs["model"],
        reference_model=control.outputs["model"],
        candidate=of_student.outputs["scorecard"],
        reference=of_control.outputs["scorecard"],
        metric="answer_loss",
        margin=ANY_GAIN,
        seed=seed,
    )
    on(CPU, over_control, cpu=1, memory="2Gi", max_hours=1).set_display_name("Accept over the control")
    of_best = scored("Evaluate the better student", over_control.outputs["accepted"])
    gate = accept(
        candidate_model=over_control.outputs["accepted"],
        reference_model=teacher.outputs["model"],
        candidate=of_best.outputs["scorecard"],
        reference=of_teacher.outputs["scorecard"],
        metric="answer_loss",
        margin=margin_nats,
        seed=seed,
    )
    on(CPU, gate, cpu=1, memory="2Gi", max_hours=1).set_display_name("Accept")

    bill = ledger(
        nodepools=nodepools,
        margin_nats=margin_nats,
        receipt_fetch_teacher=teacher.outputs["receipt"],
        receipt_fetch_student=base.outputs["receipt"],
        receipt_fetch_data=raw.outputs["receipt"],
        receipt_ingest=corpus.outputs["receipt"],
        receipt_select=worth.outputs["receipt"],
        receipt_distill=student.outputs["receipt"],
        receipt_control=control.outputs["receipt"],
        receipt_evaluate_teacher=of_teacher.outputs["receipt"],
        receipt_evaluate_student=of_student.outputs["receipt"],
        receipt_evaluate_control=of_control.outputs["receipt"],
        receipt_accept_over_control=over_control.outputs["receipt"],
        receipt_evaluate_best=of_best.outputs["receipt"],
        receipt_accept=gate.outputs["receipt"],
        scorecard_before=of_teacher.outputs["scorecard"],
        scorecard_after=of_best.outputs["scorecard"],
        scorecard_student=of_student.outputs["scorecard"],
        scorecard_control=of_control.outputs["scorecard"],
        curve_distill=student.outputs["curve"],
        curve_control=control.outputs["curve"],
    ).ignore_upstream_failure()  # a failed run has cost money, too
    on(CPU, told_of("mlflow", bill), cpu=1, memory="2Gi", max_hours=1).set_display_name("Ledger")

    release = publish(
        model=gate.outputs["accepted"],
        base=teacher.outputs["model"],
        candidate=of_best.outputs["scorecard"],
        reference=of_teacher.outputs["scorecard"],
        verdict=gate.outputs["verdict"],
        accept_receipt=gate.outputs["receipt"],
        model_receipt=teacher.outputs["receipt"],
        data_receipt=raw.outputs["receipt"],
        ledger=bill.outputs["ledger"],
        base_licence=base_licence,
        store=store_uri,
        name=release_name,
    )
    on(CPU, told_of("registry", release), cpu=2, memory="8Gi", max_hours=2).set_display_name("Publish")
