"""What a flag names in KFP's executor input."""

import json

import pytest

from deepcuts.components.core import executor_input

EXECUTOR = {
    "inputs": {
        "parameterValues": {"rate": 0.5, "text": "x", "placed_on": "gpu-spot"},
        "artifacts": {
            "base": {"artifacts": [{"uri": "minio://mlpipeline/v2/base"}]},
            "own": {"artifacts": [{"uri": "s3://b/k", "customPath": "/mnt/k"}]},
            "elsewhere": {"artifacts": [{"uri": "oci://x"}]},
        },
    },
    "outputs": {
        "artifacts": {"model": {"artifacts": [{"uri": "file:///runs/x/model"}]}},
        "parameters": {"count": {"outputFile": "/tmp/kfp/outputs/count"}, "kept": {"outputFile": "/tmp/k"}},
    },
}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("plain", "plain"),
        ("$.rate", "0.5"),
        ("$.text", "x"),
        ("$.base", "/minio/mlpipeline/v2/base"),
        ("$.own", "/mnt/k"),
        ("$.model", "/runs/x/model"),
        ("$.model.raw", "/runs/x/model.raw"),
        ("$.count", "/tmp/kfp/outputs/count"),
        ("$.count*,ke*", json.dumps({"count": "/tmp/kfp/outputs/count", "kept": "/tmp/k"})),
    ],
)
def test_a_flag_names_a_parameter_an_artifact_or_the_files_of_outputs(word, found):
    assert executor_input.value(word, EXECUTOR) == found


@pytest.mark.parametrize("word", ["$.gone", "$.elsewhere", "$.count,gone"])
def test_what_is_not_there_is_named_with_what_is(word):
    with pytest.raises(ValueError, match="no input or output of this task; it has base, count"):
        executor_input.value(word, EXECUTOR)


def test_the_pool_of_a_task_that_is_placed_in_the_run():
    assert executor_input.pool(EXECUTOR) == "gpu-spot" and executor_input.pool({}) == ""


def test_flags_named_as_their_parameters_are_one_flag_of_a_chain_and_the_same_when_read():
    given = ["--max-tokens", "$.", "--seed", "$.split_seed", "--base", "$.", "--phases", "4"]
    short = executor_input.joined(given)
    assert short == ["--same", "max-tokens,base", "--seed", "$.split_seed", "--phases", "4"]
    assert sorted(executor_input.pairs(short)) == sorted(executor_input.pairs(given))
    assert dict(executor_input.pairs(short))["--max-tokens"] == "$.max_tokens"
    assert executor_input.joined(["--phases", "4"]) == ["--phases", "4"]
