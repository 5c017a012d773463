import json

import pytest

from deepcuts.components.core import former_names, scorecards
from deepcuts.components.evaluate.step import split_measures
from deepcuts.pipelines.run_file import settings

CARD = {
    "model_digest": "a",
    "split_digest": "b",
    "examples": 2,
    "answer_tokens": 9,
    "answer_loss": {"mean": 1.5, "low": 1.0, "high": 2.0},
    "perplexity": 4.5,
}


def test_a_scorecard_of_the_version_before_is_read(tmp_path):
    (tmp_path / "scorecard.json").write_text(json.dumps(CARD))
    assert scorecards.read(tmp_path).completion_loss.mean == 1.5


def test_only_whole_strings_of_json_are_renamed():
    said = {"foresight": None, "metric": "answer_loss", "text": 'my "answer_loss"', "answer_loss_2": 1}
    renamed = {"plan_accuracy": None, "metric": "completion_loss"} | {
        k: said[k] for k in ("text", "answer_loss_2")
    }
    assert json.loads(former_names.current(json.dumps(said).encode())) == renamed


def test_old_metrics_in_a_run_file_and_in_a_flag_are_taken_with_a_warning(tmp_path):
    (tmp_path / "run.yaml").write_text("measures: [answer_loss, exact_match]\nmetric: answer_loss\n")
    with pytest.warns(FutureWarning, match="answer_loss is called completion_loss now"):
        given, problems = settings.given(tmp_path / "run.yaml", [])
    assert (
        given == {"measures": ["completion_loss", "exact_match"], "metric": "completion_loss"}
        and not problems
    )
    with pytest.warns(FutureWarning, match="measures: answer_loss is called"):
        assert split_measures(["answer_loss", "lm-eval:piqa"]) == (["completion_loss"], ["piqa"])
