"""The tune_katib pipeline: who holds an accelerator, and what reaches the last training and the ledger."""

from components.core.container import REGISTRY, TAG
from pipelines.command import cli
from pipelines.runner import pipeline_spec


def test_only_trials_and_the_last_training_hold_an_accelerator_and_all_are_on_the_bill(tmp_path):
    package = tmp_path / "tune_katib.yaml"
    cli._compile("tune_katib", package)
    pipeline = pipeline_spec.read(package)
    leaves = {leaf.task.task_info["name"]: leaf for _, leaf in pipeline_spec.leaves(pipeline)}
    pools = {name: pipeline_spec.pool(leaf.placement) for name, leaf in leaves.items()}
    assert [name for name, pool in pools.items() if pool != "cpu"] == ["Fine-tune"]
    search, last = leaves["Tune"].task.inputs, leaves["Fine-tune"].task.inputs
    made = last.parameters["recipe"].task_output_parameter
    assert made and made.output_parameter_key == "best_recipe"
    assert last.parameters["store"] == search.parameters["store"]
    assert last.artifacts == search.artifacts
    billed = leaves["Ledger"].task.inputs.artifacts
    keys = {a.task_output_artifact.output_artifact_key for a in billed.values() if a.task_output_artifact}
    assert {"receipt", "trial_receipts"} <= keys
    defaults = pipeline.root.input_definitions.parameters
    assert defaults["trial_pool"].default_value == "gpu-spot"
    assert defaults["trial_image"].default_value == f"{REGISTRY}/train:{TAG}"
