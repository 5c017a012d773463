"""How deep a training goes (``recipe.trained_layers``): its upper blocks, and what the head does after them.

Nothing below the lowest trained block needs a gradient, so autograd records nothing there and keeps nothing:
the forward pass is all that those blocks cost. Embeddings lie below too, and where the head is tied to them
it stays as it is.
"""

import msgspec
from torch import nn
from transformers import PreTrainedModel

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training.blocks import blocks_of, language_blocks
from deepcuts.components.training.models import is_tied


def upper_blocks(model: nn.Module, recipe: Recipe) -> list[tuple[str, nn.Module]]:
    """Return the blocks that the Recipe trains, by name, the lowest first.

    Raises:
        ValueError: the model has fewer.
    """
    blocks = language_blocks(model)
    if recipe.trained_layers == "all":
        return blocks
    count = recipe.trained_of(len(blocks))
    if not 0 < count <= len(blocks):
        raise ValueError(
            f"recipe.trained_layers {recipe.trained_layers}: this model has {len(blocks)} blocks: take at "
            "most as many, a share of them, or all"
        )
    return blocks[len(blocks) - count :]


def freeze_below(model: PreTrainedModel, recipe: Recipe) -> None:
    """Leave only the upper blocks, the norms after them, and a head of its own to be trained."""
    if recipe.trained_layers == "all":
        return
    trained = [block for _, block in upper_blocks(model, recipe)]
    modules = list(model.modules())
    last = next(place for place, module in enumerate(modules) if module is trained[-1])
    inside = {id(part) for _, block in language_blocks(model) for part in block.modules()}
    trained += [
        module
        for module in modules[last:]
        if id(module) not in inside and "norm" in type(module).__name__.lower()
    ]
    if not is_tied(model):
        trained.append(model.get_output_embeddings())
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)


def trains_head(model: PreTrainedModel, recipe: Recipe) -> bool:
    """Return whether a run of all weights trains the output layer."""
    return recipe.method == "full" and (recipe.trained_layers == "all" or not is_tied(model))


def recompute_above(model: nn.Module, recipe: Recipe) -> None:
    """Checkpoint one in this many trained blocks; below them there is nothing to recompute."""
    trained = {id(block) for _, block in upper_blocks(model, recipe)}
    number = 0
    for block in blocks_of(model):
        counts = id(block) in trained
        block.gradient_checkpointing = counts and number % int(recipe.gradient_checkpointing) == 0  # type: ignore[assignment]
        number += counts


def forget_inputs(model: PreTrainedModel, recipe: Recipe) -> None:
    """Undo the embeddings' requires_grad, which transformers and peft set for checkpointing."""
    if recipe.trained_layers != "all":
        model.disable_input_require_grads()


def in_first_blocks(recipe: Recipe, kept: int, total: int) -> tuple[Recipe, int]:
    """Return the Recipe for a model cut to ``kept`` of ``total`` blocks, and the trained ones it lacks."""
    trained = recipe.trained_of(total)
    if trained == total:
        return recipe, total - kept
    few = min(trained, kept - 1)
    return msgspec.structs.replace(recipe, trained_layers=few), trained - few


def describe(model: PreTrainedModel, recipe: Recipe) -> str:
    """Say which blocks are trained, and what becomes of embeddings and head."""
    if recipe.trained_layers == "all":
        return "all"
    blocks, upper = language_blocks(model), upper_blocks(model, recipe)
    if recipe.method == "lora":
        return f"adapters on the upper {len(upper)} of {len(blocks)} blocks"
    head = "the head, which is tied to them, too" if is_tied(model) else "not the head"
    return f"the upper {len(upper)} of {len(blocks)} blocks; embeddings are frozen, {head}"
