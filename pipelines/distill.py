"""Distill a teacher into a smaller student on your data, with a student without a teacher as the control."""

from kfp import dsl

from deepcuts.components.distill.component import distill as train
from deepcuts.components.fetch.component import fetch_student
from deepcuts.components.joined.judge import choose_student
from deepcuts.components.joined.prepare_selected import select_and_plan_student
from deepcuts.pipelines import stages
from deepcuts.pipelines.lazy import pipeline
from deepcuts.pipelines.stages import CPU, Stages, planned, task

ANY_GAIN_NATS = 1e-6
"""Margin of the student over the control, which costs the same, so that the gain is due to the teacher."""
SCORED = {
    "before": "evaluate-teacher/scorecard",
    "after": "judge/of_best",
    "student": "evaluate-student/scorecard",
    "control": "judge/of_control",
}


@pipeline(name="distill", description="Distill a teacher into a smaller student; ends with a ledger.")
def distill(
    teacher_uri: str = stages.EXAMPLE_BASE,
    student_uri: str = stages.EXAMPLE_BASE,
    data_uri: str = stages.EXAMPLE_DATA,
    store_uri: str = stages.STORE,
    format: str = "auto",
    columns: dict = {},  # noqa: B006
    data_config: str = "",
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
    recipe: dict = {"method": "full", "learning_rate": 1e-3},  # noqa: B006  (KFP writes it into the YAML)
    layers: str = "every-2",
    config: dict = {},  # noqa: B006
    method: str = "forward-kl",
    temperature: float = 2.0,
    cross_entropy_weight: float = 0.5,
    hidden_weight: float = 0.0,
    cached_draws: int = 0,
    max_new_tokens: int = 256,
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
    """Distill a teacher into a smaller student; ends with a ledger.

    The student is passed on only if it is better than the same student trained without a teacher at equal
    cost, else that control is; the teacher replaces either one that is worse than it by the margin.

    Args:
        teacher_uri: The model to learn from: folder, s3:// or hf://org/name@40-digit-commit;
            the bundled example by default.
        student_uri: Model the student is made from: the teacher, or a smaller one of its vocabulary;
            the bundled example by default.
        data_uri: Training data: file or folder, s3:// or hf://datasets/org/name@40-digit-commit;
            the bundled example by default.
        store_uri: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        format: Format of the rows: auto detects it; else one that ingest reads.
        columns: Meaning of columns if auto fails: {prompt: question_text, completion: gold}.
        data_config: Which of several configurations in the data folder (config in other pipelines).
        valid_share: Share of the data for watching training, without a valid file.
        test_share: Share of the data for judging the models, without a test file.
        max_bad_share: Refuse data with a higher share of unusable rows.
        fold_system: Move a system turn into the first question, for templates without it.
        max_tokens: Set longer examples aside; at most recipe.seq_len.
        select_method: How a budget is spent: random (nothing beat it), coverage, target, loss.
        select_budget_tokens: Maximum tokens to train on; 0 keeps all but duplicates.
        near_threshold: Jaccard similarity from which texts are duplicates.
        word_threshold: The same for their sets of words; 1: never, as order has meaning:
            "Ann is older than Bob" has the words of "Bob is older than Ann".
        semantic_threshold: The same for the cosine of the teacher's states; 1: never.
        embedder_uri: A sentence-transformers model to use in their place; empty for none.
        engine: Where data is read and selected: local, on this node, or ray, on a cluster of its own.
        ray: Its size and place: {workers: 2, cpu: 2, memory: 8Gi, pool: cpu}.
        recipe: Hyperparameters that differ from the defaults.
        layers: Layers the student keeps: all, every-2, or indices such as 0,2,4.
        config: Config changes for a student of random weights; empty for none.
        method: forward-kl, reverse-kl, on-policy for answers by the student, or sequence for answers by the
            teacher.
        temperature: Temperature of the comparison.
        cross_entropy_weight: Weight of the completion loss, relative to the teacher's.
        hidden_weight: Weight of the distance of hidden states; 0 for none.
        cached_draws: Draws per token made once before training; 0 runs the teacher each step.
        max_new_tokens: Longest answer of the teacher (sequence) or student (on-policy).
        pool: Node pool to train on; auto: the cheapest that fits the model.
        spot: Whether to use spot pools, priced with preemptions: never or allowed.
        measures: What to score: completion_loss (always), exact_match, label_accuracy.
        max_examples: Score at most this many test examples.
        margin_nats: Largest rise of the completion loss over the teacher's that counts as equal quality.
        release_name: Name of the release; deepcuts chat NAME talks to it.
        base_licence: Licence of teacher and student (SPDX), for the card; empty if unknown.
        nodepools: Prices and speeds of node pools; default: nodepools.yaml when compiled.
        seed: Seed for the splits and the examples to score.
        data_seed: Seed for select.
    """
    given = dict(locals())
    run = Stages(
        SCORED, store_uri, measures, max_examples, margin_nats, release_name, base_licence, nodepools, seed
    )
    curves = {"distill": "distill/curve", "control": "control/curve"}
    with run.ledger_at_end(curves, plans={"distill": "prepare/decision"}):
        teacher = stages.fetch("fetch-teacher", teacher_uri)
        base = task("fetch-student", fetch_student, CPU, stages.FETCH)(uri=student_uri)
        data = run.prepare(
            "prepare",
            select_and_plan_student,
            teacher,
            given,
            student=base.outputs["student"],
            config=data_config,
            student_config=config,
            teaching=method,
        )

        def trained(name: str, method: object, extra_tokens: object) -> dsl.PipelineTask:
            return task(name, train, planned(data, "train"), stages.TRAIN_HOURS)(
                teacher=teacher.outputs["model"],
                base=base.outputs["student"],
                train=data.outputs["train"],
                valid=data.outputs["valid"],
                store=store_uri,
                recipe=data.outputs["planned"],
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

        student = trained("distill", method, 0)
        control = trained("control", "none", student.outputs["worth_tokens"])
        of_teacher = run.evaluate("evaluate-teacher", teacher.outputs["model"], data)
        of_student = run.evaluate("evaluate-student", student.outputs["model"], data)
        gate = task("judge", choose_student, planned(data, "scoring"), stages.SCORE_HOURS)(
            teacher=teacher.outputs["model"],
            student=student.outputs["model"],
            control=control.outputs["model"],
            of_teacher=of_teacher.outputs["scorecard"],
            of_student=of_student.outputs["scorecard"],
            split=data.outputs["test"],
            labels=data.outputs["labels"],
            gain_nats=ANY_GAIN_NATS,
            margin_nats=margin_nats,
            **run.scoring,
        )
        run.publish(teacher, data, gate, "evaluate-teacher/scorecard", candidate="of_best")
