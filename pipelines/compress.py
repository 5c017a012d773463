"""Compress a model: prune it, heal it on your data, store it in fewer bits, and judge it."""

from deepcuts.components.distill.component import distill
from deepcuts.components.joined.judge import CALIBRATION_TOKENS
from deepcuts.components.joined.prepare import fetch_and_plan
from deepcuts.components.prune.component import prune
from deepcuts.pipelines import stages
from deepcuts.pipelines.lazy import pipeline
from deepcuts.pipelines.stages import Stages, planned, task

TEMPERATURE, CROSS_ENTROPY_WEIGHT = 2.0, 0.5
"""Healing by the uncut model: its distributions at this temperature, together with the completion loss."""
MAX_ANSWER_TOKENS = 256
"""Longest answer of the uncut model (sequence)."""
SCORED = {
    "before": "evaluate-before/scorecard",
    "pruned": "judge/candidate",
    "after": "judge/served",
}


@pipeline(name="compress", description="Prune, heal and quantize a model; ends with a ledger.")
def compress(
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
    engine: str = "local",
    ray: dict = {},  # noqa: B006
    prune_method: str = "width",
    prune_amount: float = 0.2,
    heal_method: str = "forward-kl",
    recipe: dict = {"method": "full", "learning_rate": 1e-3},  # noqa: B006  (KFP writes it into the YAML)
    serve_on: str = "cpu",
    quantize_candidates: list = ["auto"],  # noqa: B006
    quantize_objective: str = "bytes",
    pool: str = "auto",
    spot: str = "allowed",
    measures: list = ["completion_loss"],  # noqa: B006
    max_examples: int = 500,
    margin_nats: float = 0.03,
    release_name: str = "model",
    base_licence: str = "",
    nodepools: dict = {},  # noqa: B006  (nodepools.yaml at the time of compiling)
    seed: int = 0,
):
    """Prune, heal and quantize a model that is good at the data; ends with a ledger.

    The pruned and healed model is passed on only if it is no worse than the original, else the original is.
    The same holds for the quantized model, compared with its original on other examples.

    Args:
        base_uri: The model to compress: folder, s3:// or hf://org/name@40-digit-commit;
            the bundled example by default.
        data_uri: Data to heal on: file or folder, s3:// or hf://datasets/org/name@40-digit-commit;
            the bundled example by default.
        store_uri: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        format: Format of the rows: auto detects it; else one that ingest reads.
        columns: Meaning of columns if auto fails: {prompt: question_text, completion: gold}.
        config: Which of several configurations in the data folder.
        valid_share: Share of the data for choosing the number format, without a valid file.
        test_share: Share of the data for judging the model, without a test file.
        max_bad_share: Refuse data with a higher share of unusable rows.
        fold_system: Move a system turn into the first question, for templates without it.
        max_tokens: Set longer examples aside; at most recipe.seq_len.
        engine: Where data is read: local, on this node, or ray, on a cluster of its own.
        ray: Its size and place: {workers: 2, cpu: 2, memory: 8Gi, pool: cpu}.
        prune_method: width, depth, random-depth (the control of depth), or magnitude, which saves nothing in
            storage and serving, and whose zeros healing fills again.
        prune_amount: Share to cut, between 0 and 1.
        heal_method: Healing on answers alone (none), or with the uncut model as a teacher: forward-kl,
            reverse-kl, on-policy (answers of the healed model), or sequence (answers of the teacher).
        recipe: Hyperparameters of the healing; budget_tokens bounds it.
        serve_on: Where the model will be served: cpu (GGUF, llama.cpp) or gpu (compressed-tensors, vLLM).
        quantize_candidates: Formats to try; auto: those of serve_on, off: none.
        quantize_objective: What to minimize: bytes, latency (batch 1) or throughput (batch 16).
        pool: Node pool to train on; auto: the cheapest that fits the model.
        spot: Whether to use spot pools, priced with preemptions: never or allowed.
        measures: What to score: completion_loss (always), exact_match, label_accuracy.
        max_examples: Score at most this many test examples.
        margin_nats: Largest rise of the completion loss that counts as equal quality, at each gate.
        release_name: Name of the release; deepcuts chat NAME talks to it.
        base_licence: Licence of the base (SPDX), for the model card; empty if unknown.
        nodepools: Prices and speeds of node pools; default: nodepools.yaml when compiled.
        seed: Seed for splits, calibration text and examples to score.
    """
    given = dict(locals())
    run = Stages(
        SCORED, store_uri, measures, max_examples, margin_nats, release_name, base_licence, nodepools, seed
    )
    with run.ledger_at_end(curves={"heal": "heal/curve"}, plans={"heal": "prepare-data/decision"}):
        base = stages.fetch("fetch-model", base_uri)
        data = run.prepare("prepare-data", fetch_and_plan, base, given, teaching=heal_method)
        cut = task("prune", prune, planned(data, "scoring"), stages.SCORE_HOURS)(
            model=base.outputs["model"],
            text=data.outputs["train"],
            method=prune_method,
            amount=prune_amount,
            calibration_tokens=CALIBRATION_TOKENS,
            seed=seed,
        )
        healed = task("heal", distill, planned(data, "train"), stages.TRAIN_HOURS)(
            teacher=base.outputs["model"],
            base=cut.outputs["pruned"],
            train=data.outputs["train"],
            valid=data.outputs["valid"],
            store=store_uri,
            recipe=data.outputs["planned"],
            layers="all",
            config={},
            method=heal_method,
            temperature=TEMPERATURE,
            cross_entropy_weight=CROSS_ENTROPY_WEIGHT,
            hidden_weight=0.0,  # fewer layers have no counterpart each; never measured to help
            cached_draws=0,
            max_new_tokens=MAX_ANSWER_TOKENS,
            extra_tokens=0,
        )
        before = run.evaluate("evaluate-before", base.outputs["model"], data)
        gate = run.judge_and_quantize(
            base,
            healed.outputs["model"],
            data.outputs["train"],
            before,
            data,
            serve_on,
            quantize_candidates,
            quantize_objective,
        )
        run.publish(base, data, gate, "judge/scorecard", candidate="served", verdict="served_verdict")
