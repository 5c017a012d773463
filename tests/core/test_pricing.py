"""Seconds times price, and unknown stays unknown."""

from deepcuts.components.core.pricing import usd


def test_an_hour_costs_its_price_and_an_unknown_price_nothing_known() -> None:
    assert usd(3600, 0.82) == 0.82
    assert usd(90, 0.16) == 0.004
    assert usd(90, None) is None
