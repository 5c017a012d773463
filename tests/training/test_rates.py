import pytest

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import models, rates
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny


@pytest.mark.parametrize(
    ("method", "width", "rate"),
    [
        ("lora", 576, 1.3e-3),
        ("lora", 4096, 2.9e-4),
        ("full", 576, 3e-4),
        ("full", 4096, 2.6e-5),
        ("full", 128, 2e-3),
        ("full", 64, 4e-3),
    ],
)
def test_rate_falls_with_the_width_and_an_adapter_has_more(method, width, rate):
    assert rates.auto(method, width) == pytest.approx(rate)


def test_rate_of_a_recipe_is_its_own_or_follows_the_model(tmp_path):
    network, _ = models.load_base(tiny.base(tmp_path / "base"))
    width = network.config.hidden_size
    assert rates.peak(CompletionLoss(network), Recipe(learning_rate=3e-4)) == 3e-4
    assert rates.peak(CompletionLoss(network), Recipe(method="full")) == rates.auto("full", width)


@pytest.mark.parametrize(
    ("changed", "tokens"),
    [
        ({}, 8192),  # of a million
        ({"budget_tokens": 20_000}, 512),  # seq_len
        ({"budget_tokens": 100_000}, 2000),
        ({"budget_tokens": 100_000, "seq_len": 4096}, 4096),
        (
            {"budget_tokens": 20_000, "schedule_tokens": 200_000},
            4000,
        ),  # a trial cut short steps as the full run
        ({"budget_tokens": 20_000, "tokens_per_step": 1024}, 1024),
    ],
)
def test_a_step_leaves_fifty_of_them(changed, tokens):
    assert Recipe(**changed).tokens_per_step == tokens
