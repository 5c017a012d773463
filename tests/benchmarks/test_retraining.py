"""Goals of the retraining policies on real data, and the least that any of them has to miss."""

import itertools

import numpy as np
import pytest

from deepcuts.components.retrain.policies import POLICIES
from tests.benchmarks import retraining
from tests.conftest import SHARED


@pytest.mark.parametrize("seed", range(5))
def test_unavoidable_is_what_the_best_of_all_plans_has_over_the_best_period_at_its_worst_end(seed):
    drift = np.triu(np.random.default_rng(seed).uniform(0.0, 1.0, (7, 7)), 1)
    losses, cost = np.triu(0.5 + drift.cumsum(axis=1)), 2.0
    best = [retraining.fixed(losses[:end, :end], cost) for end in range(1, 8)]
    plans = [[*plan] for count in range(7) for plan in itertools.combinations(range(1, 7), count)]
    least = min(max(retraining.ends(losses, cost, plan, best)) for plan in plans)
    assert least > 1.01
    assert retraining.unavoidable(losses, cost, best) == pytest.approx(least, abs=2e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "retraining").exists(), reason=f"no series and questions at {SHARED}")
def test_default_policy_comes_near_the_optimum_and_the_best_fixed_period():
    found = [
        result
        for name, losses in retraining.streams(SHARED, seeds=2)
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
    # Nor can a policy promise it: some end of the stream is more than 5 % above for whoever does not know it.
    assert all(r.over_period_worst > r.unavoidable - 2e-4 for r in found)
    assert np.mean([r.unavoidable > 1.05 for r in found if r.policy == "res"]) > 0.25
