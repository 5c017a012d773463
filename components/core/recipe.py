"""Recipe: the hyperparameters of one training run; the only place with defaults."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from deepcuts.components.core import other_names, strict, yaml_files
from deepcuts.components.core.bounds import (
    Count,
    NonNegative,
    OpenShare,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    Whole,
)

PHASE_NAMES = {"block_length": "seq_len", "until_share": "until_ratio"}
"""Old to new keys of a length phase; accepted with a warning for one version."""
RECIPE_NAMES = {
    "block_length": "seq_len",
    "micro_batch_blocks": "micro_batch_size",
    "batch_tokens": "tokens_per_step",
    "horizon_tokens": "schedule_tokens",
    "warmup_share": "warmup_ratio",
    "frozen_until_share": "frozen_until_ratio",
}
"""Old to new keys of a Recipe; accepted with a warning for one version."""
BUDGET_TOKENS = 1_000_000
MAX_STEP_TOKENS = 8192
MIN_STEPS = 50
"""Steps that AdamW's running means need: at 8,192 tokens a step, a budget of 20,000 ended after two steps."""


class LengthPhase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A first part of the run with shorter rows; only examples that fit are trained."""

    RENAMED: ClassVar[dict[str, str]] = PHASE_NAMES

    seq_len: Annotated[int, Meta(ge=8)]
    until_ratio: OpenShare
    """End of the phase, as a share of the annealed tokens."""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hyperparameters of one training run."""

    RENAMED: ClassVar[dict[str, str]] = RECIPE_NAMES
    OTHER_NAMES: ClassVar[dict[str, str]] = other_names.OTHER_NAMES
    EITHER: ClassVar[tuple[tuple[str, str], ...]] = (("epochs", "budget_tokens"),)

    method: Literal["lora", "full"] = "lora"
    """Train a low-rank adapter, or every weight."""
    initial: Literal["pretrained", "random"] = "pretrained"
    """``random`` keeps the base's architecture but not its weights: the control of fine-tuning (cut 1)."""
    frozen: list[Literal["embeddings", "layers"]] = []
    """With ``full``: parts whose weights stay frozen, as in a warm start (cut 3)."""
    frozen_until_ratio: Share = 1.0
    """Share of the annealed tokens after which frozen parts train, too (one process only); 1: never."""
    trained_layers: Literal["all"] | Count | OpenShare = "all"
    """Blocks to train: all, a number of top blocks, or a top share. Below them no gradient flows and no
    activations are kept; embeddings, and a head tied to them, are then frozen."""
    learning_rate: Positive | Literal["auto"] = "auto"
    """Peak rate. ``auto``: by method and model width; for LoRA 1.3e-3 on SmolLM2-135M and 2.9e-4 on 7B
    models, about 10 times the rate of full fine-tuning (Schulman 2025)."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning-rate decay to 0 over ``schedule_tokens``, after the warm-up."""
    warmup_ratio: Share = 0.03
    """Share of ``schedule_tokens`` over which the learning rate rises."""
    budget_tokens: Count = BUDGET_TOKENS
    """Trained tokens at which this run stops (prompt and answer, no padding). Not part of the identity."""
    epochs: Positive | None = None
    """Passes over the training data (0.5, 3) in place of ``budget_tokens``, which they become once the data
    is selected and counted; the run stops at the last whole step within them."""
    budget_seconds: NonNegative = 0.0
    """Wall-clock budget in node-seconds over all attempts; training stops at the last checkpoint within it.
    0: no limit. ``plan`` derives it from dollars. Not part of the identity."""
    schedule_tokens: Whole = 0
    """Tokens over which the schedule anneals; 0: the budget. A shortened trial keeps the full run's value."""
    tokens_per_step: Whole = 0
    """Tokens per optimizer step, over all ranks and micro-batches; 0: at most 8,192, few enough for 50 steps
    in ``schedule_tokens``, at least ``seq_len``."""
    seq_len: Annotated[int, Meta(ge=8)] = 512
    """Tokens per packed row. A longer example is an error, never truncated silently."""
    length_phases: list[LengthPhase] = []
    """Sequence-length warm-up, shortest rows first. Longer examples are trained once they fit."""
    micro_batch_size: Count = 8
    """Rows per forward pass and device (more in phases with shorter rows); affects memory and speed, not the
    result. On a CPU the most: a pass takes fewer where that is about as fast."""
    packing: bool = True
    """Pack examples into rows without padding; otherwise one per row, padded to the longest in its pass."""
    share_prefixes: Literal["auto", "on", "off"] = "auto"
    """Compute prefixes shared by examples of a pass once, if that saves enough and provably changes nothing;
    needs ``packing``. ``auto``: not on CUDA, where it was never measured; ``on``: there, too."""
    order: Literal["shuffle", "given"] = "shuffle"
    """``given`` keeps the file's order (curriculum); ``shuffle`` is seeded and differs each epoch."""
    weight_decay: NonNegative = 0.0
    """AdamW's, times the learning rate, per step."""
    beta1: Share = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: Share = 0.95
    """Decay of AdamW's mean of squared gradients."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    lora_rank: Count = 16
    """Rank of the adapter."""
    lora_alpha: Positive = 32.0
    """The adapter is scaled by alpha / rank (by alpha / sqrt(rank) with rsLoRA)."""
    lora_dropout: ShareBelowOne = 0.0
    """Dropout on the adapter's inputs."""
    lora_targets: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """Layers that get an adapter: a group, or names of modules."""
    lora_rslora: bool = False
    """Scale the adapter by alpha / sqrt(rank)."""
    lora_dora: bool = False
    """Train magnitudes and directions separately (DoRA)."""
    trainable_embeddings: Literal["auto", "yes", "no"] = "auto"
    """With LoRA: train embeddings and norms, too. ``auto``: yes if embeddings are tied and the vocabulary is
    small (at most 32,768); freezing them cost 0.7 nats on stories260K (docs/cuts/lora.md)."""
    new_token_ids: list[Whole] = []
    """With LoRA: tokens the base has not learned. Their embedding rows are trained even if others are not."""
    base_precision: Literal["as-stored", "nf4"] = "as-stored"
    """``nf4``: the adapter's frozen base in 4 bits (QLoRA; needs CUDA and bitsandbytes). The result is
    served, and so evaluated, on the base in its stored precision."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 if the device runs it fast, else fp32 (bf16 is about 70 times slower on AVX2)."""
    gradient_checkpointing: bool | Count = False
    """Recompute activations in the backward pass: of every block, or every k-th (a number)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile. ``auto``: if a trial shows that it pays off; the trial may cost at most 1 % of the rest
    of the run."""
    strategy: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """One process per device with the full model (``ddp``), a shard (``fsdp``) or a shard of its node's copy
    (``hsdp``). ``auto``: one, unless ``plan`` finds several cheaper or torchrun started several (``ddp``)."""
    evaluations_in_loop: Whole = 0
    """Number of evenly spread pauses in training to score the valid split; the control for ``watch``, which
    scores checkpoints concurrently (cut 11)."""
    scoring_share: Positive = 0.1
    """Share of the training cost that scoring the valid split may take, at the end and by ``watch``; a sample
    of at least 32 examples is scored if the whole split would cost more."""
    save_every_seconds: Positive = 300.0
    """Saves are on a timer because a KFP step has about one second after SIGTERM."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints to keep."""
    seed: Seed = 0
    """Seeds the order, dropout and random initialization."""

    def __post_init__(self) -> None:
        """Set the size of a step; raises ValueError with all contradictions, one per line."""
        if self.epochs and self.budget_tokens == BUDGET_TOKENS:  # nothing may train before they are tokens
            msgspec.structs.force_setattr(self, "budget_tokens", 0)
        if not self.tokens_per_step and self.budget_tokens:
            fine = min(MAX_STEP_TOKENS, self.annealed_tokens // MIN_STEPS)
            msgspec.structs.force_setattr(self, "tokens_per_step", max(fine, self.seq_len))
        if found := list(self._contradictions()):
            raise ValueError("\n".join(found))

    def _contradictions(self) -> Iterator[str]:
        """Yield contradictory settings."""
        if self.epochs and self.budget_tokens:
            yield strict.either("epochs", self.epochs, "budget_tokens", self.budget_tokens)
        if self.schedule_tokens and self.schedule_tokens < self.budget_tokens:
            yield (
                f"schedule_tokens {self.schedule_tokens} is below budget_tokens {self.budget_tokens}: "
                "the rate would be 0 for the rest; raise the horizon, or leave it 0"
            )
        if 0 < self.tokens_per_step < self.seq_len:
            yield (
                f"tokens_per_step {self.tokens_per_step} is below seq_len {self.seq_len}: "
                "a step holds at least one row; raise tokens_per_step or lower seq_len"
            )
        if self.method == "lora" and (self.initial == "random" or self.frozen):
            yield (
                f"initial {self.initial}, frozen {self.frozen} go with method full: an adapter freezes all "
                "of a base that is worth it; set method to full, or leave them out"
            )
        if self.frozen_until_ratio < 1 and not self.frozen:
            yield (
                f"frozen_until_ratio {self.frozen_until_ratio} with nothing frozen: name the parts in "
                "frozen, or leave it out"
            )
        if self.method == "full" and (self.base_precision == "nf4" or self.new_token_ids):
            yield (
                f"base_precision {self.base_precision}, new_token_ids {self.new_token_ids} go with method "
                "lora: full trains every weight; set method to lora, or leave them out"
            )
        if self.trained_layers != "all" and (
            self.frozen
            or self.new_token_ids
            or self.initial == "random"
            or self.trainable_embeddings == "yes"
        ):
            yield (
                f"trained_layers {self.trained_layers} freezes the embeddings and the blocks below: with it "
                "leave out frozen, new_token_ids, initial random and trainable_embeddings yes"
            )
        if self.strategy in SHARDED and (self.base_precision == "nf4" or self.compile == "on"):
            yield (
                f"strategy {self.strategy} goes neither with base_precision nf4 (here {self.base_precision}) "
                f"nor with compile on (here {self.compile}): set strategy to ddp, or leave them out"
            )
        lengths = [*(phase.seq_len for phase in self.length_phases), self.seq_len]
        ends = [*(phase.until_ratio for phase in self.length_phases), 1.0]
        for number in range(len(self.length_phases)):
            if lengths[number] >= lengths[number + 1] or ends[number] >= ends[number + 1]:
                yield (
                    f"length_phases: seq_len {lengths[number]} until {ends[number]} comes before "
                    f"{lengths[number + 1]} until {ends[number + 1]}: let both rise, up to seq_len"
                )

    def trained_of(self, layers: int) -> int:
        """Return how many of a model's blocks are trained."""
        if self.trained_layers == "all":
            return layers
        if isinstance(self.trained_layers, int):
            return self.trained_layers
        return max(1, round(self.trained_layers * layers))

    @property
    def annealed_tokens(self) -> int:
        """Return the tokens over which the learning rate falls from its peak to 0."""
        return self.schedule_tokens or self.budget_tokens

    def seq_len_at(self, tokens: int) -> int:
        """Return the tokens of a packed row after ``tokens`` trained tokens."""
        lengths = (p.seq_len for p in self.length_phases if tokens < p.until_ratio * self.annealed_tokens)
        return next(lengths, self.seq_len)


SHARDED = ("fsdp", "hsdp")  # no process holds all weights
EXECUTION = {
    "budget_tokens",
    "epochs",
    "budget_seconds",
    "micro_batch_size",
    "packing",
    "share_prefixes",
    "evaluations_in_loop",
    "scoring_share",
    "save_every_seconds",
    "keep_checkpoints",
    "gradient_checkpointing",
    "compile",
    "strategy",
}
"""Fields that set how far or how a run goes, not what it computes."""
LATER = {"length_phases", "initial", "frozen", "frozen_until_ratio", "base_precision", "new_token_ids"}
LATER |= {"trained_layers"}
"""Fields added later: at their defaults they are left out of the identity, so that it does not change."""


def parse(value: object, where: str = "recipe") -> Recipe:
    """Make a Recipe from JSON or YAML values; reports all problems at once (``strict.decode``)."""
    return strict.decode(Recipe, value, where)


def read(path: Path) -> Recipe:
    """Read a Recipe from a JSON or YAML file."""
    return parse(yaml_files.load(path), str(path))


def training_id(recipe: Recipe, base_digest: str, data_digest: str) -> str:
    """Identify a training run by its inputs, never by when or where it ran (docs/DESIGN.md, Identity).

    It includes ``annealed_tokens`` but not ``budget_tokens``: a trial promoted to a bigger budget under the
    same schedule continues the same training; a shorter, fully annealed run is another one.
    """
    assert recipe.budget_tokens, "epochs become tokens first (core/epochs.py)"
    same = {name for name in LATER if getattr(recipe, name) == getattr(Recipe(), name)}
    fields = {k: v for k, v in msgspec.to_builtins(recipe).items() if k not in EXECUTION | same}
    fields["schedule_tokens"] = recipe.annealed_tokens
    parts = {"base": base_digest, "data": data_digest, "recipe": _first_names(fields)}
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _first_names(value: Any) -> Any:
    """Return ``value`` with the original names of its keys: a rename must not lose checkpoints."""
    old = {new: old for old, new in (RECIPE_NAMES | PHASE_NAMES).items()}
    if isinstance(value, dict):
        return {old.get(key, key): _first_names(item) for key, item in value.items()}
    return [_first_names(item) for item in value] if isinstance(value, list) else value


def changed(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that differ from the defaults.

    All fields take 800 bytes, and Kubeflow repeats a task's parameter 24 times in the run's status.
    """
    defaults, fields = msgspec.to_builtins(Recipe()), msgspec.to_builtins(recipe)
    found = {name: value for name, value in fields.items() if value != defaults[name]}
    if recipe.epochs:
        del found["budget_tokens"]  # 0
    if msgspec.convert(found, Recipe).tokens_per_step != recipe.tokens_per_step:  # it follows from others
        found["tokens_per_step"] = recipe.tokens_per_step
    return found
