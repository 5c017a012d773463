"""Train only the top blocks of a model (``recipe.trained_layers``), and the head after them.

Blocks below the lowest trained one need no gradient, so autograd keeps nothing there and they cost only the
forward pass. Embeddings are below, too; a head tied to them stays frozen.
"""

import msgspec
from torch import nn
from transformers import PreTrainedModel

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training.blocks import blocks_of, language_blocks
from deepcuts.components.training.models import is_tied


def upper_blocks(model: nn.Module, recipe: Recipe) -> list[tuple[str, nn.Module]]:
    """Return the blocks the Recipe trains, by name, lowest first.

    Raises:
        ValueError: the model has fewer.
    """
    blocks = language_blocks(model)
    if recipe.trained_layers == "all":
        return blocks
    count = recipe.trained_of(len(blocks))
    if not 0 < count <= len(blocks):
        raise ValueError(
            f"recipe.trained_layers {recipe.trained_layers}: this model has {len(blocks)} blocks: give at "
            "most that many, a share of them, or all"
        )
    return blocks[len(blocks) - count :]


def freeze_below(model: PreTrainedModel, recipe: Recipe) -> None:
    """Freeze everything but the top blocks, the norms after them, and an untied head."""
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
    """Tell whether full fine-tuning trains the output layer."""
    return recipe.method == "full" and (recipe.trained_layers == "all" or not is_tied(model))


def recompute_above(model: nn.Module, recipe: Recipe) -> None:
    """Checkpoint every k-th of the trained blocks; below them there is nothing to recompute."""
    trained = {id(block) for _, block in upper_blocks(model, recipe)}
    number = 0
    for block in blocks_of(model):
        counts = id(block) in trained
        block.gradient_checkpointing = counts and number % int(recipe.gradient_checkpointing) == 0  # type: ignore[assignment]
        number += counts


def forget_inputs(model: PreTrainedModel, recipe: Recipe) -> None:
    """Undo requires_grad of the embeddings, which transformers and peft set for checkpointing."""
    if recipe.trained_layers != "all":
        model.disable_input_require_grads()


def in_first_blocks(recipe: Recipe, kept: int, total: int) -> tuple[Recipe, int]:
    """Return the Recipe for a model cut to ``kept`` of ``total`` blocks, and the trained ones it lost."""
    trained = recipe.trained_of(total)
    if trained == total:
        return recipe, total - kept
    few = min(trained, kept - 1)
    return msgspec.structs.replace(recipe, trained_layers=few), trained - few


def describe(model: PreTrainedModel, recipe: Recipe) -> str:
    """Describe which blocks are trained, and whether embeddings and head are."""
    if recipe.trained_layers == "all":
        return "all"
    blocks, upper = language_blocks(model), upper_blocks(model, recipe)
    if recipe.method == "lora":
        return f"adapters on the top {len(upper)} of {len(blocks)} blocks"
    head = "and so is the head, which is tied to them" if is_tied(model) else "the head is not"
    return f"the top {len(upper)} of {len(blocks)} blocks; embeddings are frozen, {head}"
