"""Fine-tune a pretrained model on your data: from raw rows to a trained model and its cost."""

from deepcuts.components.finetune.component import finetune as train
from deepcuts.components.joined.prepare import ingest_and_plan
from deepcuts.components.watch.component import watch_training
from deepcuts.pipelines import stages
from deepcuts.pipelines.lazy import pipeline
from deepcuts.pipelines.stages import Stages, planned, task

SCORED = {
    "before": "evaluate-before/scorecard",
    "after": "judge/candidate",
    "served": "judge/served",
}


@pipeline(name="finetune", description="Fine-tune a pretrained model; ends with a ledger.")
def finetune(
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
    curriculum_signal: str = "none",
    curriculum_pacing: str = "root",
    curriculum_phases: int = 4,
    recipe: dict = {},  # noqa: B006  (KFP writes it into the YAML)
    deadline_hours: float = 0.0,
    budget_usd: float = 0.0,
    pool: str = "auto",
    spot: str = "allowed",
    patience: int = 0,
    measures: list = ["completion_loss"],  # noqa: B006
    max_examples: int = 500,
    margin_nats: float = 0.03,
    serve_on: str = "cpu",
    quantize_candidates: list = ["auto"],  # noqa: B006
    quantize_objective: str = "latency",
    release_name: str = "model",
    base_licence: str = "",
    nodepools: dict = {},  # noqa: B006  (nodepools.yaml at the time of compiling)
    seed: int = 0,
    data_seed: int = 0,
):
    """Fine-tune a pretrained model; ends with a ledger.

    Args:
        base_uri: The pretrained model: folder, s3:// or hf://org/name@40-digit-commit;
            the bundled example by default.
        data_uri: Training data: file or folder, s3:// or hf://datasets/org/name@40-digit-commit;
            the bundled example by default.
        store_uri: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        format: Format of the rows: auto detects it; else one that ingest reads.
        columns: Meaning of columns if auto fails: {prompt: question_text, completion: gold}.
        config: Which of several configurations in the data folder.
        valid_share: Share of the data for watching training, without a valid file.
        test_share: Share of the data for judging the model, without a test file.
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
        curriculum_signal: Difficulty: none, length, loss, compression, diversity, column, random.
        curriculum_pacing: How fast harder examples come in: linear, root or step.
        curriculum_phases: Parts of equal tokens, each drawing from more examples.
        recipe: Hyperparameters that differ from the defaults.
        deadline_hours: Refuse training that will take longer; 0 is no deadline.
        budget_usd: Refuse training that costs more (p50), and end it in time; 0: no limit.
        pool: Node pool to train on; auto: the cheapest that fits the model and deadline.
        spot: Whether to use spot pools, priced with preemptions: never or allowed.
        patience: Stop after this many scored checkpoints without a significant gain; 0: never.
        measures: What to score before and after: completion_loss (always), exact_match, label_accuracy.
        max_examples: Score at most this many test examples.
        margin_nats: Largest rise of the completion loss that counts as equal quality.
        serve_on: Where the model will be served: cpu (GGUF, llama.cpp) or gpu (compressed-tensors, vLLM).
        quantize_candidates: Formats to try; auto: those of serve_on, off: none.
        quantize_objective: What to minimize: bytes, latency (batch 1) or throughput (batch 16).
        release_name: Name of the release; deepcuts chat NAME talks to it.
        base_licence: Licence of the base (SPDX), for the model card; empty if unknown.
        nodepools: Prices and speeds of node pools; default: nodepools.yaml when compiled.
        seed: Seed for the splits and the examples to score.
        data_seed: Seed for select and curriculum.
    """
    given = dict(locals())
    run = Stages(
        SCORED, store_uri, measures, max_examples, margin_nats, release_name, base_licence, nodepools, seed
    )
    with run.ledger_at_end(
        curves={"finetune": "finetune/curve", "watch": "watch/curve"},
        plans={"finetune": "prepare/decision"},
    ):
        base = stages.fetch("fetch-model", base_uri)
        data = run.prepare("prepare", ingest_and_plan, base, given)
        training = {
            "base": base.outputs["model"],
            "train": data.outputs["train"],
            "valid": data.outputs["valid"],
            "store": store_uri,
            "recipe": data.outputs["planned"],
        }
        tuned = task("finetune", train, planned(data, "train", several=True), stages.TRAIN_HOURS)(**training)
        watched = task("watch", watch_training, planned(data, "watch"), stages.TRAIN_HOURS)(
            **training,
            patience=patience,
        )
        before = run.evaluate("evaluate-before", base.outputs["model"], data)
        gate = run.judge_and_quantize(
            base,
            tuned.outputs["model"],
            data.outputs["train"],
            before,
            data,
            serve_on,
            quantize_candidates,
            quantize_objective,
        )
        run.publish(
            base,
            data,
            gate,
            "judge/scorecard",
            candidate="served",
            verdict="served_verdict",
            training=watched.outputs["summary"],
        )
