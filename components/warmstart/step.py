"""Warmstart: start a new or resized model from a donor's weights if a trial shows that it pays (cut 3)."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers import PreTrainedModel

from deepcuts.components.core import cli, examples, files, scorecards, verdicts
from deepcuts.components.core.bounds import PositiveShare
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe, training_id
from deepcuts.components.core.scorecards import Comparison, Score
from deepcuts.components.core.store import Store, open_store
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.training import adapters, data_tokens, loop, models, scoring, sharding
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered
from deepcuts.components.warmstart import transfer
from deepcuts.components.warmstart.transfer import Layers, Overlap


def warmstart(
    donor: Path,
    tokenizer: Path,
    train: Path,
    valid: Path,
    model: Path,
    report: Path,
    store: str,
    shape: dict[str, Any],
    layers: Layers,
    rescale: bool,
    trial_share: PositiveShare,
    recipe: Recipe,
) -> Facts:
    """Write ``model``: the donor's config with ``shape`` changed, warm if better in a trial, else cold.

    Warm: token rows from ``donor`` by their text, ``layers`` none, copy or stack (depthwise). Cold: random
    weights. Both are trained for ``trial_share`` of the recipe's budget, in the same order, and scored on
    ``valid``. ``model`` itself is untrained: the recipe starts from step 0.

    Raises:
        ValueError: the shapes do not match, or the recipe is not method full or has budget_seconds.
        DataError: there is no valid example, or the vocabularies share nothing.
    """
    recipe = data_tokens.settled(checked(recipe, valid), train, tokenizer)
    words, judges = models.load_tokenizer(tokenizer), examples.read(valid)
    given, donor_words = models.load_base(donor)
    shared = transfer.overlap(words.get_vocab(), donor_words.get_vocab())
    if not shared.pairs:
        raise DataError(f"{donor} and {tokenizer} share no token: use a donor with a similar tokenizer")
    rows = len(words) if files.digest(tokenizer) != files.digest(donor) else given.config.vocab_size
    data = scoring.render_all(examples.read(train), words)
    judged = scoring.render_all(judges, words)
    budget = max(recipe.tokens_per_step, round(recipe.budget_tokens * trial_share))
    trial = msgspec.structs.replace(recipe, budget_tokens=budget, schedule_tokens=0)
    identity = [files.digest(path) for path in (donor, tokenizer)]

    def start(warm: bool) -> tuple[PreTrainedModel, int]:
        made = transfer.build(given, shape, rows, recipe.seed)
        return made, transfer.copy(made, given, shared, layers, rescale) if warm else 0

    objects, began, arms = open_store(store), time.monotonic(), {}
    for name in ("warm", "cold"):
        made, filled = start(name == "warm")
        label = "/".join([*identity, str(sorted(shape.items())), layers, str(rescale), name])
        if name == "cold":  # random weights must move
            trial = msgspec.structs.replace(trial, frozen=[], frozen_until_ratio=1.0)
        arms[name] = tried(made, label, data, judged, judges, trial, files.digest(train), objects)
    compared = scorecards.compare([arms["warm"]], [arms["cold"]], "completion_loss", 1e-9, recipe.seed)
    accepted = compared.high < 0
    chosen, filled = start(accepted)
    models.save(chosen, words, donor, model, models.stored_dtype(donor))
    facts = describe(shared, layers, filled, arms, compared, budget)
    with files.staged(report) as staging:
        staging.write_text(page(facts, shared, compared), encoding="utf-8")
    return facts | {
        "tokens": 2 * budget,
        "trial_seconds": round(time.monotonic() - began, 3),
        "model_bytes": files.size_bytes(model),
        "weights": models.count_weights(chosen)[0],
    }


def checked(recipe: Recipe, valid: Path) -> Recipe:
    """Return the recipe, refusing settings that make the trial meaningless; raises as ``warmstart``."""
    if recipe.method != "full":
        raise ValueError(
            f"recipe.method {recipe.method}: a new model has no good weights to freeze; set it to full"
        )
    if recipe.budget_seconds:
        raise ValueError(
            f"recipe.budget_seconds {recipe.budget_seconds}: both arms of the trial must train to the end of "
            "their tokens to be compared; bound the trial by trial_share instead"
        )
    if files.size_bytes(valid) == 0:
        raise DataError(f"{valid} is empty, and the trial is judged by it: raise valid_share of ingest")
    return recipe


def tried(
    network: PreTrainedModel,
    label: str,
    data: Sequence[Rendered],
    judged: Sequence[Rendered],
    judges: Sequence[Example],
    trial: Recipe,
    data_digest: str,
    objects: Store,
) -> list[Score]:
    """Train one arm and score it on the valid split; a killed step resumes from its checkpoint."""
    accelerator = sharding.group(trial)
    loss = CompletionLoss(adapters.adapt(network, trial, accelerator.device))
    checkpoints = Checkpoints(objects, training_id(trial, label, data_digest), trial.keep_checkpoints)
    loop.train(loss, data, trial, accelerator, checkpoints)
    nats = scoring.answer_nats(loss, judged)
    return [Score(record.id, *found) for record, found in zip(judges, nats, strict=True)]


def describe(
    shared: Overlap,
    layers: Layers,
    filled: int,
    arms: dict[str, list[Score]],
    compared: Comparison,
    budget: int,
) -> Facts:
    """Return what was copied, and whether it paid off, as facts of the receipt."""
    means = {
        f"{name}_loss": sum(s.answer_nats for s in scores) / sum(s.answer_tokens for s in scores)
        for name, scores in arms.items()
    }
    won = compared.high < 0
    kept = "" if won else ", cold weights are kept"
    reason = f"{compared.worse_by:+.3f} nats at {budget:,} tokens each{kept}"
    return {
        **Verdict("warmstart", "applied" if won else "refused", reason).facts(),
        "accepted": won,
        "layers": layers,
        "filled_blocks": filled,
        "shared_tokens": len(shared.pairs),
        "vocabulary_tokens": shared.tokens,
        "overlap_share": round(shared.share, 4),
        "trial_tokens_each": budget,
        "worse_by": compared.worse_by,
        "worse_by_low": compared.low,
        "worse_by_high": compared.high,
        **means,
    }


def page(facts: Facts, shared: Overlap, compared: Comparison) -> str:
    """Return the report."""
    return f"""# Warm start

{verdicts.read(facts)[0]}

Completion loss after the trial, on {compared.examples:,} valid examples: warm {facts["warm_loss"]:.3f}, cold
{facts["cold_loss"]:.3f}; difference {compared.worse_by:+.3f} nats, 90 % interval {compared.low:+.3f} to
{compared.high:+.3f}, one seed. The warm model is kept only if the whole interval is below 0.

The donor's rows go to {len(shared.pairs):,} of {shared.tokens:,} tokens, its weights to
{facts["filled_blocks"]} blocks.
"""


if __name__ == "__main__":
    cli.main(warmstart)
