"""Goals of the retraining policies on real data."""

import numpy as np
import pytest

from components.retrain.policies import POLICIES
from tests.benchmarks import retraining
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "retraining").exists(), reason=f"no series and questions at {DATA}"),
]


def test_default_policy_comes_near_the_optimum_and_the_best_fixed_period():
    found = [
        result
        for name, losses in retraining.streams(DATA, seeds=2)
        for result in retraining.results(name, losses)
    ]
    optima = {
        policy: float(np.mean([r.over_optimum for r in found if r.policy == policy])) for policy in POLICIES
    }
    periods = np.array([r.over_period for r in found if r.policy == "res"])
    assert min(r.over_optimum for r in found) >= 1 - 1e-9
    assert optima["res"] <= 1.25
    assert optima["res"] < min(
        optima[name] for name in ("never", "always", "periodic", "page-hinkley", "adwin")
    )
    # The best period is known in retrospect only: near it on average, on a quarter of the streams more than
    # 5 % above. Seeds 13 to 25 of the drifts, on which nothing was chosen, gave 1.042 and 28 % (74 of 260).
    assert periods.mean() <= 1.05
    assert (periods <= 1.05).mean() >= 0.65
