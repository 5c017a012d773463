"""Finetune: continue a pretrained model on examples, all weights or a LoRA adapter (cuts 1 and 2)."""

import json
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from components.core import cli, examples, files
from components.core.receipts import Facts
from components.core.recipe import Recipe, training_id
from components.core.store import open_store
from components.training import loop, models, scoring
from components.training.checkpoints import Checkpoints
from components.training.losses import AnswerLoss


def finetune(
    base: Path, train: Path, valid: Path, model: Path, curve: Path, store: str, recipe: Recipe
) -> Facts:
    """Train ``base`` on the examples of ``train`` as the recipe says; write ``model`` and its loss ``curve``.

    Checkpoints go to ``store`` under the run's identity: the same command after a crash goes on from the newest.
    ``model`` is an adapter folder with LoRA, else a full model folder in the base's own precision; ``curve`` has
    one JSON record a step. ``valid`` is scored once, at the end; an empty file is fine.
    """
    network, tokenizer = models.load_base(base)
    check_block(recipe, network)
    data = scoring.render_all(examples.read(train), tokenizer)
    identity = training_id(recipe, files.digest(base), files.digest(train))
    accelerator = Accelerator(mixed_precision=models.mixed_precision(recipe))
    stored = network.dtype
    adapted = models.adapt(network, recipe, accelerator.device)
    loss = AnswerLoss(adapted)
    outcome = loop.train(
        loss, data, recipe, accelerator, Checkpoints(open_store(store), identity, recipe.keep_checkpoints)
    )
    facts = describe(loss, outcome, identity) | valid_score(loss, valid, tokenizer)
    if accelerator.is_main_process:
        models.save(adapted, tokenizer, base, model, stored)
        with files.staged(curve) as staging:
            staging.write_text("".join(json.dumps(record) + "\n" for record in outcome.progress.curve))
        facts["model_bytes"] = files.size_bytes(model)
    return facts


def check_block(recipe: Recipe, network: PreTrainedModel) -> None:
    """A block may not be longer than the model's positions.

    Raises:
        ValueError: it is.
    """
    context = models.context_length(network)
    if recipe.block_length > context:
        raise ValueError(
            f"recipe.block_length {recipe.block_length} is above the model's context {context}: lower it"
        )


def describe(loss: AnswerLoss, outcome: loop.Outcome, identity: str) -> Facts:
    """What the ledger and a reader want to know of a run."""
    progress = outcome.progress
    weights, trained = models.count_weights(loss.model)
    here = progress.tokens - outcome.resumed_tokens
    return {
        "training_id": identity,
        "tokens": here,
        "total_tokens": progress.tokens,
        "answer_tokens": progress.answer_tokens,
        "padding_share": progress.padding_tokens / max(1, progress.padding_tokens + progress.tokens),
        "steps": progress.step,
        "resumed_at_step": outcome.resumed_at_step,
        "last_loss": progress.curve[-1]["loss"],
        "train_seconds": round(outcome.train_seconds, 3),
        "train_cpu_seconds": round(outcome.train_cpu_seconds, 3),
        "save_seconds": round(outcome.save_seconds, 3),
        "weights": weights,
        "trained_weights": trained,
        "trained_share": trained / weights,
        "optimizer_bytes": outcome.optimizer_bytes,
        "checkpoint_bytes": outcome.checkpoint_bytes,
    }


def valid_score(loss: AnswerLoss, valid: Path, tokenizer: PreTrainedTokenizerBase) -> Facts:
    """Nats per answer token on the valid split: what a search compares trials by."""
    if files.size_bytes(valid) == 0:
        return {"valid_loss": None}
    scores = scoring.answer_nats(loss, scoring.render_all(examples.read(valid), tokenizer))
    return {"valid_loss": sum(nats for nats, _ in scores) / sum(tokens for _, tokens in scores)}


if __name__ == "__main__":
    cli.main(finetune)
