"""Test an untrusted generation_config.json by generating with it, before hours of training."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deepcuts.components.core.errors import judged
from deepcuts.components.training import faulty_field, generation


def check(folder: Path, rows: int) -> None:
    """Refuse a generation_config.json with which a model of ``rows`` tokens cannot generate.

    Generates two tokens with a stand-in of one layer and width 4, which takes milliseconds.

    Raises:
        DataError: transformers' message, and the field at fault if there is one.
    """
    if not folder.joinpath(generation.FILE).exists():
        return
    generation.published(folder)

    def generates(place: Path) -> None:
        stand_in = _stand_in(rows)
        stand_in.generation_config = generation.read(place)[0]
        settings = generation.greedy(max_new_tokens=2)
        stand_in.generate(inputs=torch.zeros(1, 2, dtype=torch.long), generation_config=settings)

    bad = f"{folder}/{generation.FILE}: nothing can be generated with it"
    with faulty_field.named(folder, (generation.FILE,), generates), judged(bad, generation.FIX):
        generates(folder)


def _stand_in(rows: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=rows, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
    )
    with torch.random.fork_rng(devices=[]):  # so that seeded code is not affected
        return LlamaForCausalLM(config)
