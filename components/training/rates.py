"""Compute the learning rate: its peak (for ``auto``, from the model's method and width) and its schedule."""

import math

from torch import nn

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training.losses import CompletionLoss

LORA = (5e-4, 2000, 0.781)
"""Rate, width and power for LoRA with alpha 32: 5e-5 x 10 x (2000 / width) ** 0.781, as in tinker-cookbook's
``hyperparam_utils.get_lr`` for Llama models, after Schulman, "LoRA Without Regret" (2025)."""
FULL = (3e-4, 576, 1.25)
"""The same for full fine-tuning: 3e-4 at SmolLM2's width, 2.6e-5 at 4,096 (7B models; docs/results.md)."""
MAX_FULL = 4e-3
"""The best of 5e-4 to 8e-3 at width 64 after 100,000 tokens; 1e-3 was 0.34 nats behind (docs/results.md).
Below width 73 the power law would give more."""


def peak(loss: nn.Module, recipe: Recipe) -> float:
    """Return the recipe's peak learning rate; ``auto`` computes it from the model that ``loss`` trains."""
    if recipe.learning_rate != "auto":
        return recipe.learning_rate
    model = next(part for part in loss.modules() if isinstance(part, CompletionLoss)).model
    return auto(recipe.method, model.get_input_embeddings().embedding_dim)


def auto(method: str, width: int) -> float:
    """Return the peak rate for a model of ``width``."""
    rate, at_width, power = LORA if method == "lora" else FULL
    found = rate * (at_width / width) ** power
    return float(f"{found if method == 'lora' else min(found, MAX_FULL):.2g}")


def rate_share(recipe: Recipe, tokens: float) -> float:
    """Return the learning rate after ``tokens`` as a share of its peak: linear warm-up, then decay to 0."""
    done = tokens / recipe.annealed_tokens
    if done < recipe.warmup_ratio:
        return done / recipe.warmup_ratio
    falling = min(1.0, (done - recipe.warmup_ratio) / max(1e-9, 1 - recipe.warmup_ratio))
    match recipe.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - falling
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * falling))
