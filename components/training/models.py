"""Load and save models: a base, an adapter, a merged or fully trained model."""

import json
import math
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
import transformers
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError, judged
from deepcuts.components.core.long_calls import working
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import (
    blocks,
    generation,
    generation_check,
    model_files,
    quantized,
    render,
    weights_check,
)

UNBOUNDED = 2**31
"""Context of a model without learned or scaled positions (BLOOM, Mamba)."""
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files for a multimodal model's images and sound: not trained, but released with the model."""
ADAPTER = "adapter"
"""Subfolder of a merged model with its adapter, as PEFT and vLLM load it."""
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load_base(
    folder: Path, nf4: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, with weights as stored, and its tokenizer from a Hugging Face folder.

    With ``nf4`` its linear layers are quantized to 4 bits (bitsandbytes) and computed in that type.

    Raises:
        FileNotFoundError: the folder does not exist.
        DataError: there are no safetensors or only pickled weights, weights are damaged or do not match the
            config, or the tokenizer has more tokens than the model has rows.
    """
    check_folder(folder)
    if quantized.is_quantized(folder):
        raise DataError(
            f"{folder} is quantized (config.json: quantization_config) and cannot be trained: "
            "give the model it was made from"
        )
    config = weights_check.check_sizes(folder)
    tokenizer = load_tokenizer(folder)
    generation_check.check(folder, config.get_text_config().vocab_size)
    with judged(f"{folder} does not load as a model", "fetch it again"), working("loading the model"):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=nf4 or "auto",
            quantization_config=nf4 and quantized.nf4(nf4),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
        )
    weights_check.check_loaded(folder, found, model)
    weights_check.check_saves(folder, model.config)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise DataError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {rows} embedding rows: "
            "they do not match; fetch both from the same revision, or resize the embeddings"
        )
    blocks.keep_scale(model)
    generation.settle(model, tokenizer)
    return model, tokenizer


def four_bits(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the compute type of a base in 4 bits; None if the base stays as stored.

    Raises:
        ValueError: 4 bits are asked for but cannot run here.
    """
    if recipe.base_precision == "as-stored":
        return None
    fix = 'use a CUDA pool, or set it to "as-stored"'
    if device.type != "cuda":
        raise ValueError(f"recipe.base_precision nf4 needs a CUDA device, this one is {device.type}: {fix}")
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "recipe.base_precision nf4 needs bitsandbytes, which is not installed: "
            'pip install "deepcuts[cuda]", or set it to "as-stored"'
        )
    return resolve_precision(recipe.precision, device)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder.

    Raises:
        DataError: there is no tokenizer, or it has no end token.
    """
    tokenizer = render.load_tokenizer(folder)
    if tokenizer.eos_token_id is None or not tokenizer.eos_token:
        raise DataError(f"{folder}: the tokenizer has no eos_token, so no answer could end: set eos_token")
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a safetensors model of a class that transformers ships.

    Raises:
        FileNotFoundError, DataError: something is missing or refused; says what to do.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: give the folder of a model, or run fetch")
    if (folder / "model.gguf").exists():
        raise DataError(f"{folder} holds a GGUF file, which is for serving: give the model it was made from")
    config = folder / "config.json"
    if not config.exists():
        raise DataError(f"{folder} has no config.json: it is not a Hugging Face model folder")
    model_files.check_fields(folder)
    settings = model_files.read_object(config)
    if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
        raise DataError(f"{config} needs custom code (auto_map): only models that transformers ships are run")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise DataError(
                f"{folder} has only pickle weights ({pickles[0]}): convert them to safetensors first"
            )
        raise DataError(f"{folder} has no weights (*.safetensors): fetch the model again")


def context_length(model: PreTrainedModel) -> int:
    """Return the longest sequence the model's positions allow; ``UNBOUNDED`` if there is no limit."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def is_tied(model: PreTrainedModel) -> bool:
    """Tell whether input and output embeddings are one tensor."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return parameters trained now or later in the run, by name; a tied one appears once."""
    named = model.named_parameters()
    return {name: p for name, p in named if p.requires_grad or getattr(p, "unfreezes", False)}


def count_weights(model: nn.Module) -> tuple[int, int]:
    """Return (number of weights, number of trained weights)."""
    sizes = [(_weights_in(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of the weights in memory."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _weights_in(parameter: nn.Parameter) -> int:
    """Count the weights of a tensor; in 4 bits a byte holds two."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state else parameter.numel()


def save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    folder: Path,
    stored: torch.dtype,
) -> None:
    """Save the trained weights as an adapter folder (without the base) or a full model, with the tokenizer.

    A full model is stored in ``stored``, the base's precision, so that it is no larger than the base.
    ``base.json`` in an adapter's folder has the base's digest, so that it is never used with another base.
    """
    with files.staged(folder) as staging, working("writing the model"):
        staging.mkdir()
        if not isinstance(model, PeftModel):
            model.to(dtype=stored)
            fix = f"lower recipe.learning_rate, or start from a base that is not stored as {stored}"
            weights_check.check_finite(model.named_parameters(), fix)
            generation.settle(model, tokenizer)
        model.save_pretrained(staging)
        if isinstance(model, PeftModel):
            staging.joinpath("README.md").unlink(missing_ok=True)  # peft's empty model card
            config_path = staging / "adapter_config.json"
            config = json.loads(config_path.read_text())
            config["base_model_name_or_path"] = ""  # a local path is meaningless elsewhere
            config_path.write_text(json.dumps(config, indent=1, sort_keys=True))
            staging.joinpath("base.json").write_text(json.dumps({"digest": files.digest(base)}))
        else:
            for path in (base / name for name in PROCESSORS if (base / name).exists()):
                shutil.copyfile(path, staging / path.name)
        tokenizer.save_pretrained(staging)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the precision of the largest weight in the folder's safetensors.

    config.json may differ: the bundled base is float16 on disk but says float32, so that CPUs compute in
    float32. Results are stored in the base's precision, or they would be twice as large.
    """
    largest = (0, "F32")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (safe_open is not a mapping)
                part = weights.get_slice(name)
                largest = max(largest, (math.prod(part.get_shape()), part.get_dtype()))
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(largest[1], torch.float32)


def load(folder: Path, base: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model to evaluate: a full or quantized folder, or an adapter folder on its base (merged).

    Raises:
        DataError: the adapter was trained on another base, or is damaged.
    """
    if quantized.is_quantized(folder):
        check_folder(folder)
        config = weights_check.check_sizes(folder)
        generation_check.check(folder, config.get_text_config().vocab_size)
        model, tokenizer = quantized.load(folder), load_tokenizer(folder)
        generation.settle(model, tokenizer)
        return model, tokenizer
    if not is_adapter(folder) or folder.joinpath("config.json").exists():
        return load_base(folder)  # refuses a folder with both
    with judged(f"{folder} does not load as an adapter", "make it again"):
        wanted = json.loads(folder.joinpath("base.json").read_text())["digest"]
    if files.digest(base) != wanted:
        raise DataError(
            f"adapter {folder} was trained on base {wanted[:12]}…, {base} is another: give that base"
        )
    model, tokenizer = load_base(base)
    with judged(f"{folder} does not load as an adapter", "make it again"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in adapt
        adapted = PeftModel.from_pretrained(model, str(folder))
    return merge(adapted), tokenizer


def is_adapter(folder: Path) -> bool:
    """Tell whether the folder holds an adapter rather than a whole model."""
    return folder.joinpath("adapter_config.json").exists()


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Merge the adapter into its base's weights; exact up to float rounding."""
    tied = adapted.get_base_model().config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns that merged embeddings may be untied; tied again below
        model = adapted.merge_and_unload()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if tied and torch.equal(embedding.weight, head.weight):
        model.config.tie_word_embeddings = True  # peft 0.21 resets it (GPT-2), and then nothing is tied
        model.tie_weights()
    return model


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype; ``auto`` takes bf16 only if the device runs it fast.

    bf16 matmul ran at 0.9 against 63 GFLOP/s per core on an AVX2 CPU (docs/faq.md).
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def mixed_precision(recipe: Recipe) -> Literal["bf16", "no"]:
    """Return accelerate's name for the Recipe's precision on the device at hand."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if resolve_precision(recipe.precision, device) is torch.bfloat16 else "no"


def from_scratch(base: Path, seed: int) -> PreTrainedModel:
    """Return a randomly initialised model of the base's architecture: the control of fine-tuning."""
    weights_check.check_sizes(base)
    torch.manual_seed(seed)
    config = weights_check.load_config(base)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
