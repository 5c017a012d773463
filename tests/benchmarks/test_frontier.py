"""The order of the frontier's arms, and what its table compares."""

import argparse
import json

import pytest

from deepcuts.components.core import scorecards
from deepcuts.components.core.scorecards import Score
from tests.benchmarks import banking77, frontier
from tests.benchmarks.frontier import ALONE_FOR, Frontier, FrontierArm

pytestmark = pytest.mark.skipif(not banking77.BANKING77.exists(), reason=f"no {banking77.BANKING77}")


def test_every_arm_comes_after_what_it_needs():
    order = frontier.arms(0)
    assert order[0] == FrontierArm("uncut", "alone", 0) and len(set(order)) == len(order)
    controls = [arm for arm in order if arm.healed.startswith(ALONE_FOR)]
    assert len(controls) == len(frontier.CUTS) * len(frontier.TAUGHT)
    assert all(order.index(arm.pays_for) < order.index(arm) for arm in controls)


def test_table_compares_a_student_with_the_one_that_was_given_its_cost(tmp_path):
    made = Frontier(argparse.Namespace(folder=tmp_path, test_examples=4, data="banking77"))
    timing = {"bytes": 7, "candidate_ms": 2.0, "ratio": 0.5, "low": 0.4, "high": 0.6}
    taught = FrontierArm("depth 20", "forward-kl", 0)
    for arm, nats in ((taught, 2.0), (taught._replace(healed=ALONE_FOR + taught.healed), 3.0)):
        scores = [Score(f"{i}", nats, 1, label_correct=i < nats) for i in range(4)]
        card = scorecards.summarise(scores, "", "", 0)
        scorecards.write(tmp_path / "scores" / arm.name, card, scores)
        quality = {f"{name}{end}": nats for name in frontier.MARGINS for end in ("", "_low", "_high")}
        facts = dict.fromkeys(frontier.KEPT, 5)
        line = {"arm": arm.name, **arm._asdict(), "F16": timing, "Q8_0": timing} | quality | facts
        with (tmp_path / "arms.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
    head, _, one, control = frontier.table(made).splitlines()
    assert len({line.count("|") for line in (head, one, control)}) == 1
    assert "-1.000 [-1.000, -1.000]; +0.250 [" in one and control.endswith("|  |")
