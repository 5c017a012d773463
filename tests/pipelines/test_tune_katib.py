"""The tune_katib pipeline: who holds an accelerator, and what reaches the last training and the ledger."""

from deepcuts.components.core.container import image_name
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.runner import pipeline_spec


def test_only_trials_and_the_last_training_hold_an_accelerator_and_all_are_on_the_bill(tmp_path):
    package = tmp_path / "tune_katib.yaml"
    packages.compile_to("tune_katib", package)
    pipeline = pipeline_spec.read(package)
    leaves = dict(pipeline_spec.leaves(pipeline))
    pools = {name: pipeline_spec.pool(leaf.placement) for name, leaf in leaves.items()}
    assert [name for name, pool in pools.items() if pool != "cpu"] == ["finetune"]
    search, last = leaves["tune"].task.inputs, leaves["finetune"].task.inputs
    made = last.parameters["recipe"].task_output_parameter
    assert made and made.output_parameter_key == "best_recipe"
    assert last.parameters["store"] == search.parameters["store"]
    assert last.artifacts == search.artifacts
    assert "trial_receipts" in leaves["tune"].component.output_definitions.artifacts  # the ledger finds them
    defaults = pipeline.root.input_definitions.parameters
    assert defaults["trial_pool"].default_value == "gpu-spot"
    assert defaults["trial_image"].default_value == image_name("train")
