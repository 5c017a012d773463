"""Rehearse what follows training on the untouched base: adapt, save, merge, save, reload.

A failure here would otherwise come after the last paid step, at every retry. Of a large base with equal
blocks only the first are used, as they have the same classes, names and settings.
"""

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, __version__
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError, judged
from deepcuts.components.core.long_calls import working
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.profile import few_layers
from deepcuts.components.training import (
    adapters,
    blocks,
    depth,
    generation,
    models,
    packing,
    quantized,
    weights_check,
)
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

TOKENS = 8
"""Tokens of the row scored before and after."""
TOLERANCE = 1e-3
"""Largest difference of two logits, relative to the largest, in float32."""
WORDS = "saved, merged and loaded again"
LOST = "use another base, or recipe.method full if an adapter caused it"


@working("trying the base: training, merging, saving, loading")
def rehearse(base: Path, recipe: Recipe) -> Facts:
    """Return what a run of the Recipe will do with the base; empty if there is only a config.json.

    Raises:
        DataError: a step fails, or the reloaded model computes something else.
    """
    if not any(base.glob("*.safetensors")):
        return {}
    if quantized.is_quantized(base):
        raise DataError(
            f"{base} is quantized (config.json: quantization_config) and cannot be trained: "
            "give the model it was made from"
        )
    weights_check.check_sizes(base)
    tokenizer = models.load_tokenizer(base)
    with judged(f"{base}: a dry run fails while loading it", "correct its files, or use another base"):
        model, left = _first_blocks(base)
        blocks.keep_scale(model)
        generation.settle(model, tokenizer)
    with _trying("scoring two examples", base, model):
        examples = _examples(model)
        loss = CompletionLoss(model).eval()
        check_causal(loss, examples, base)
        verdict = packing.prove(loss, examples, recipe.seq_len)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        count = len(blocks.language_blocks(model))
        few, _ = depth.in_first_blocks(recipe, count, count + left)
        _there_and_back(model, tokenizer, base, few, Path(scratch))
    words = "off: by the recipe" if not recipe.packing else verdict.words
    return {"rehearsal": WORDS, "packing": words, "generation_config": generation.published(base)}


def _trying(what: str, base: Path, model: PreTrainedModel | PeftModel) -> AbstractContextManager[None]:
    """Report errors of transformers, peft or safetensors, which would otherwise end the run later."""
    fix = f"transformers {__version__} cannot do so with model_type {model.config.model_type!r}: use another"
    return judged(f"{base}: a dry run fails while {what}", f"{fix} base")


def check_causal(loss: CompletionLoss, examples: Sequence[Rendered], base: Path) -> None:
    """Refuse a model whose tokens see the tokens after them, as it would copy its targets.

    These are encoders (BERT), and classes that lose their causal mask without padding (Doge).

    Raises:
        DataError: tokens after an example change its score.
    """
    with torch.no_grad():
        noise = packing.behind_nats(loss, examples)
    if noise > packing.TOLERANCE_NATS:
        raise DataError(
            f"{base}: tokens after an example change its score by {noise:.1e} nats, so this model sees its "
            "targets: use a decoder (config.json of an encoder: is_decoder true)"
        )


def check_learned(adapted: PreTrainedModel | PeftModel, base: Path) -> None:
    """Refuse adapters that would never train, on layers whose weight is read directly.

    Raises:
        DataError: names the layer; experts that no token of the row chose are not an error.
    """
    adapted.train()
    rows = adapted.get_input_embeddings().num_embeddings
    ids = torch.arange(TOKENS)[None] % rows
    nats = adapted(input_ids=ids, labels=ids, use_cache=False).loss
    if nats.requires_grad:
        nats.backward()
    idle = [
        name
        for name, weight in adapted.named_parameters()
        if weight.requires_grad and weight.grad is None and "lora_" in name and ".experts." not in name
    ]
    adapted.zero_grad(set_to_none=True)
    adapted.eval()
    if idle:
        layer = idle[0].partition(".lora_")[0].rpartition(".")[2]
        raise DataError(
            f"{base}: an adapter on {layer} learns nothing, as this model reads that layer's weight itself, "
            "or passes no token through it: name other layers in recipe.lora_targets, or use method full"
        )


def _first_blocks(base: Path) -> tuple[PreTrainedModel, int]:
    """Return the model, cut to its first blocks if all are equal, and the number of blocks cut."""
    config, left = few_layers((base / "config.json").read_text())
    given: dict[str, Any] = {}
    if left:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(config)
            given["config"] = AutoConfig.from_pretrained(folder, local_files_only=True)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base, local_files_only=True, use_safetensors=True, dtype=torch.float32, **given
    )
    return model.eval(), left


def _examples(model: PreTrainedModel) -> list[Rendered]:
    rows = min(model.get_input_embeddings().num_embeddings, len(model.get_output_embeddings().weight))
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(rows, (n,), generator=draw).tolist() for n in (TOKENS, TOKENS + 4)]
    return [Rendered(row, [0] + [1] * (len(row) - 1)) for row in ids]


def _there_and_back(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: Path, recipe: Recipe, scratch: Path
) -> None:
    """Take a model through saving, merging and reloading to an answer; its logits must stay the same.

    Raises:
        DataError: the logits change.
    """
    with _trying("training it", base, model):
        adapted = adapters.adapt(model, recipe, torch.device("cpu"))
        check_learned(adapted, base)
        _stir(adapted)
        wanted = _logits(adapted)
    with _trying("saving it", base, model):
        if isinstance(adapted, PeftModel):
            models.save(adapted, tokenizer, base, scratch / "adapter", torch.float32)
            bare = adapted.unload()
            merged = models.merge(PeftModel.from_pretrained(bare, str(scratch / "adapter")))
        else:
            merged = adapted
        models.save(merged, tokenizer, base, scratch / "whole", torch.float32)
    with _trying("loading the saved model", base, model):
        again = AutoModelForCausalLM.from_pretrained(
            scratch / "whole", local_files_only=True, dtype=torch.float32
        ).eval()
        tokenizer = models.load_tokenizer(scratch / "whole")
    if (_logits(again) - wanted).abs().max() > TOLERANCE * wanted.abs().max():
        raise DataError(f"{base}: saved and loaded again it computes something else: {LOST}")
    with _trying("answering", base, model):
        again.generate(
            inputs=torch.zeros(1, TOKENS, dtype=torch.long),
            generation_config=generation.decoding(again, tokenizer, max_new_tokens=2),
        )


def _stir(adapted: PreTrainedModel | PeftModel) -> None:
    """Give an adapter small random weights, as it starts at zero and merging must keep its effect."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.05, generator=draw)


def _logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        ids = torch.arange(TOKENS)[None] % model.get_input_embeddings().num_embeddings
        return model(input_ids=ids, use_cache=False).logits.float()  # type: ignore[no-any-return]
