"""Retraining policies on windows worked out by hand, and the optimum against brute force."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepcuts.components.retrain import oracle, policies
from deepcuts.components.retrain.policies import POLICIES, Policy, Terms, advise

STEP = [10.0, 10.0, 10.0, 10.0, 30.0, 30.0, 30.0]
"""$10 a window, from the fifth window on $20 more."""
TERMS = Terms(cost=50.0, period=4, horizon=2, memory=50, seed=0)


def first(policy: Policy, cycle: list[float], terms: Terms = TERMS) -> int:
    """Windows after which ``policy`` first says to retrain; 0 for never."""
    says = [advise(policy, [cycle[: age + 1]], terms).retrain for age in range(len(cycle))]
    return says.index(True) + 1 if True in says else 0


def noisy(mean: float, count: int, seed: int = 0) -> list[float]:
    noise = random.Random(seed)
    return [mean + noise.gauss(0, 1) for _ in range(count)]


def test_optimum_waits_for_the_shift_and_pays_once():
    # Trained before window 2 or later, a model knows the shift: 1 instead of 5 in windows 2 and 3.
    losses = np.array([[1, 1, 5, 5], [0, 1, 5, 5], [0, 0, 1, 1], [0, 0, 0, 1]], float)
    assert oracle.optimum(losses, cost=3.0) == (7.0, [2])  # 1 + 1 + 3 + 1 + 1
    assert oracle.optimum(losses, cost=9.0) == (12.0, [])


@settings(max_examples=50)
@given(
    arrays(float, st.integers(1, 6).map(lambda n: (n, n)), elements=st.floats(0, 9)),
    st.floats(0.1, 9),
)
def test_optimum_is_the_cheapest_of_all_plans(losses, cost):
    later = range(1, len(losses))
    plans = [[*plan] for size in range(len(losses)) for plan in itertools.combinations(later, size)]
    least, plan = oracle.optimum(losses, cost)
    assert least == pytest.approx(min(oracle.total(losses, cost, plan) for plan in plans))
    assert least == pytest.approx(oracle.total(losses, cost, plan))


def test_noise_is_that_of_neighbours_whatever_the_level():
    assert policies.noise([noisy(10, 500), noisy(90, 500)]) == pytest.approx(1.0, rel=0.15)
    assert policies.noise([[1.0, 2.0, 3.0]]) == 0


def test_fresh_is_the_first_two_windows_unless_fresh_models_were_better_before():
    assert policies.fresh([[10.0, 14.0, 99.0]]) == 12
    assert policies.fresh([[10.0, 10.0, 30.0], [24.0, 26.0]]) == 10
    assert policies.fresh([[30.0, 30.0], [10.0, 10.0]]) == 10


def test_a_poor_new_model_makes_the_next_one_expected_dearer_and_a_good_one_is_the_measure():
    assert policies.next_fresh([[10.0, 14.0, 99.0]]) == 12
    assert policies.next_fresh([[10.0, 10.0, 30.0], [24.0, 26.0]]) == 17.5
    assert policies.next_fresh([[30.0, 30.0], [10.0, 10.0]]) == 10


def test_excess_is_what_two_windows_in_a_row_cost_above_fresh():
    assert policies.excess([STEP], policies.fresh([STEP])) == [0, 0, 0, 0, 0, 20, 20]
    spike = [[10.0, 10.0, 10.0, 90.0, 10.0, 10.0]]
    assert policies.excess(spike, policies.fresh(spike)) == [0] * 6


def test_lost_adds_up_and_better_windows_pay_back():
    assert policies.lost([0, 5, 5, -3, 4]) == 11
    assert policies.lost([5, -9, 4]) == 4


def test_credit_falls_with_retrainings_that_brought_nothing():
    stale, helped, useless = [10.0, 10.0, 30.0, 30.0], [10.0, 10.0], [30.0, 30.0]
    assert policies.credit([stale], memory=50) == 1
    assert policies.credit([stale, helped], memory=50) == 1
    assert policies.credit([stale, useless], memory=50) == 0.5
    assert policies.credit([stale, useless], memory=1) == 1  # too long ago


def test_res_retrains_when_the_horizon_pays_for_it():
    # $20 above fresh, seen in the sixth window, over a horizon of 2 is $40; after the seventh 20 + 20 = 40.
    assert first("res", STEP, Terms(cost=40.0, period=4, horizon=2, memory=50, seed=0)) == 6
    assert first("res", STEP, Terms(cost=41.0, period=4, horizon=2, memory=50, seed=0)) == 0
    assert first("res", STEP, Terms(cost=41.0, period=4, horizon=3, memory=50, seed=0)) == 6
    told = advise("res", [STEP], Terms(cost=120.0, period=4, horizon=2, memory=50, seed=0))
    assert told.numbers == {"benefit_usd": 40, "score": 0.25, "lambda": 0.5, "excess_usd": 20}


def test_res_raises_lambda_after_a_retraining_that_brought_nothing():
    useless = [[10.0, 10.0, 30.0, 30.0], [30.0, 30.0, 30.0, 30.0]]
    terms = Terms(cost=15.0, period=4, horizon=2, memory=50, seed=0)
    told = advise("res", useless, terms)  # fresh is 20 now, the mean of 10 and 30
    assert told.numbers["lambda"] == pytest.approx(1 / 1.5) and told.numbers["benefit_usd"] == 20
    assert not told.retrain
    assert advise("res", useless, Terms(cost=9.0, period=4, horizon=2, memory=50, seed=0)).retrain


def test_res_does_not_retrain_on_noise():
    for seed in range(20):
        assert (
            first("res", noisy(100, 60, seed), Terms(cost=10.0, period=4, horizon=2, memory=50, seed=0)) == 0
        )


def test_ski_rental_retrains_once_what_was_lost_reaches_a_retraining():
    assert first("ski-rental", STEP, TERMS) == 7  # 20 + 20 + 20 >= 50
    assert "at most 2.000 times" in advise("ski-rental", [STEP], TERMS).why


@given(st.lists(st.floats(0, 100), min_size=3, max_size=30), st.floats(1, 500))
def test_ski_rental_costs_at_most_twice_the_best_of_a_cycle(rents, cost):
    cycle = [0.0, 0.0, *rents]
    stop = first("ski-rental", cycle, Terms(cost=cost, period=4, horizon=2, memory=50, seed=0))
    paid = sum(cycle[:stop]) + cost if stop else sum(cycle)
    overshoot = cycle[stop - 1] if stop else 0.0  # a window is paid for whole: rent comes in lumps
    assert paid - overshoot <= 2 * min(sum(cycle), cost) + 1e-6


def test_ski_rental_random_draws_by_the_density_that_gives_its_bound():
    shares = np.array([policies.drawn_share(0, cycle) for cycle in range(20_000)])
    assert shares.min() > 0 and shares.max() < 1
    assert shares.mean() == pytest.approx(1 / (math.e - 1), abs=0.01)  # of e^z / (e - 1)
    told = advise("ski-rental-random", [STEP], TERMS)
    assert told.numbers["bound"] == pytest.approx(1.582, abs=1e-3)
    assert told == advise("ski-rental-random", [STEP], TERMS)


def test_cara_takes_the_threshold_that_would_have_been_cheapest():
    # Drift by $1 a window, a retraining at $8: twice its cost is too late, an eighth too soon.
    path = [float(moved) for moved in range(12)]
    spent = {tau: policies.replayed(path, tau * 8, 8.0, cumulative=True) for tau in policies.TAUS}
    assert spent[2.0] > spent[1.0] and spent[0.125] > spent[0.5]
    assert policies.replayed([0, 0, 5, 5, 5], 5.0, 3.0, cumulative=False) == 5 + 3
    assert policies.replayed([0, 0, 5, 5, 5], 10.0, 3.0, cumulative=True) == 10 + 3


def test_cara_retrains_on_lasting_staleness_and_not_on_none():
    for policy in ("cara-threshold", "cara-cumulative"):
        assert first(policy, [*STEP, 30.0, 30.0, 30.0]) > 5
        assert first(policy, [10.0] * 20) == 0


def test_drift_adds_up_over_retrainings():
    cycle = [10.0, 10.0, 30.0, 30.0]
    assert policies.drift([cycle, cycle]) == [0, 0, 0, 20, 20, 20, 20, 40]


@pytest.mark.parametrize("policy", ["page-hinkley", "adwin"])
def test_drift_detector_sees_a_rise_and_neither_a_fall_nor_nothing(policy):
    level = noisy(20, 20)
    assert advise(policy, [[*level, *noisy(60, 20, seed=1)]], TERMS).retrain
    assert not advise(policy, [level], TERMS).retrain
    assert not advise(policy, [[*noisy(60, 20, seed=1), *level]], TERMS).retrain


def test_periodic_never_and_always_do_not_look():
    assert [advise("periodic", [[0.0] * age], TERMS).retrain for age in (3, 4, 5)] == [False, True, True]
    assert advise("always", [[0.0]], TERMS).retrain and not advise("never", [[9e9] * 9], TERMS).retrain


@given(
    st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), min_size=1, max_size=4),
    st.floats(1e-3, 1e6),
)
@settings(max_examples=50)
def test_every_policy_answers_any_history_with_finite_numbers(cycles, cost):
    for policy in POLICIES:
        told = advise(policy, cycles, Terms(cost=cost, period=3, horizon=5, memory=9, seed=1))
        assert all(math.isfinite(float(value or 0)) for value in told.numbers.values())
        assert told == advise(policy, cycles, Terms(cost=cost, period=3, horizon=5, memory=9, seed=1))
