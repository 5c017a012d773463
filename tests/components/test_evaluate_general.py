import json

import pytest
import torch

from deepcuts.components.accept.step import accept
from deepcuts.components.core import scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.scorecards import Score
from deepcuts.components.training import general_text as general
from deepcuts.components.training import models
from tests.training import zoo


def test_shipped_text_is_scored_token_by_token(tmp_path):
    network, tokenizer = models.load_base(zoo.base_of(tmp_path / "base", "llama"))
    texts = general.passages(general.SHIPPED)
    assert len(texts) >= 20 and general.path_of(["completion_loss", "general"]) == general.SHIPPED
    found = general.score_network(network, tokenizer, texts[:2])
    ids = tokenizer(texts[0])["input_ids"][:256]
    with torch.no_grad():
        wanted = network(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss * (len(ids) - 1)
    assert found[0].answer_nats == pytest.approx(float(wanted), rel=1e-4)
    assert found[0].answer_tokens == len(ids) - 1


def test_a_text_without_passages_is_refused(tmp_path):
    (tmp_path / "one.txt").write_text("Only one.")
    assert general.path_of([f"general:{tmp_path}/one.txt"]) == tmp_path / "one.txt"
    assert general.path_of(["completion_loss"]) is None
    with pytest.raises(DataError, match="blank line"):
        general.passages(tmp_path / "one.txt")


@pytest.mark.parametrize(("forgotten", "passed"), [(0.0, True), (0.5, False), (None, True)])
def test_the_gate_refuses_a_better_candidate_that_forgot(tmp_path, forgotten, passed):
    for name, nats in (("candidate", 1.0), ("reference", 2.0)):
        scores = [Score(f"x{i}", nats * 10 + i % 3, 10) for i in range(30)]
        known = [
            Score(f"general-{i}", 30.0 + i + 10 * (forgotten or 0) * (name == "candidate"), 10)
            for i in range(20)
        ]
        card = scorecards.summarise(scores, name, "split", 0)
        beside = b"".join(
            json.dumps({"id": s.id, "answer_nats": s.answer_nats, "answer_tokens": 10}).encode() + b"\n"
            for s in known
        )
        scorecards.write(
            tmp_path / name, card, scores, {} if forgotten is None else {scorecards.GENERAL: beside}
        )
        (tmp_path / f"{name}-model").mkdir()
        (tmp_path / f"{name}-model" / "name").write_text(name)
    outputs = {name: tmp_path / "out" / name for name in ("accepted", "scorecard", "verdict")}
    facts = accept(
        tmp_path / "candidate-model",
        tmp_path / "reference-model",
        tmp_path / "candidate",
        tmp_path / "reference",
        "completion_loss",
        0.03,
        seed=0,
        **outputs,
    )
    assert facts["accepted"] is passed
    assert (outputs["accepted"] / "name").read_text() == ("candidate" if passed else "reference")
    assert ("general text" in outputs["verdict"].read_text()) == (forgotten is not None)
    assert facts.get("forgot_nats", forgotten) == (None if forgotten is None else pytest.approx(forgotten))
