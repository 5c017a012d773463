"""The tune_katib pipeline: who holds an accelerator, and what reaches the last training and the ledger."""

from deepcuts.components.core.container import image_name
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.runner import pipeline_spec


def test_trials_and_the_last_training_go_where_the_plan_says_and_all_are_on_the_bill(tmp_path):
    package = tmp_path / "tune_katib.yaml"
    packages.compile_to("tune_katib", package)
    pipeline = pipeline_spec.read(package)
    leaves = dict(pipeline_spec.leaves(pipeline))
    placed = {name: pipeline_spec.place(leaf.placement) for name, leaf in leaves.items()}
    assert [name for name, place in placed.items() if place == "train"] == ["finetune"]
    assert pipeline_spec.pool(leaves["tune"].placement) == "cpu"  # it follows the Experiment
    for name, output in (("pool", "train_pool"), ("cpu", "train_cpu"), ("memory", "train_memory")):
        decided = leaves["tune"].task.inputs.parameters[name].task_output_parameter  # of a trial's Job
        assert decided and decided.output_parameter_key == output
    search, last = leaves["tune"].task.inputs, leaves["finetune"].task.inputs
    made = last.parameters["recipe"].task_output_parameter
    assert made and made.output_parameter_key == "best_recipe"
    assert last.parameters["store"] == search.parameters["store"]
    assert last.artifacts == search.artifacts
    assert "trial_receipts" in leaves["tune"].component.output_definitions.artifacts  # the ledger finds them
    defaults = pipeline.root.input_definitions.parameters
    assert (defaults["pool"].default_value, defaults["spot"].default_value) == ("auto", "allowed")
    assert defaults["trial_image"].default_value == image_name("train")
