"""Represent examples as directions: the base model's states, pooled over tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from deepcuts.components.core.progress import Heard, unheard
from deepcuts.components.training.render import Rendered
from deepcuts.components.training.scoring import by_length

Vectors = NDArray[np.float32]
"""(examples, width)"""


def embed(network: PreTrainedModel, data: Sequence[Rendered], embedded: Heard = unheard) -> Vectors:
    """Average the last hidden states; position i of n weighs i / (1 + ... + n), so later ones more.

    ``embedded`` is called with the number newly done. A causal model's first tokens, which have seen little,
    count little (Ivison et al. 2025, RDS+).
    """
    lengths = [len(rendered.ids) for rendered in data]
    vectors = np.empty((len(data), network.config.hidden_size), dtype=np.float32)
    network.eval()
    with torch.inference_mode():
        for batch in by_length(lengths):
            width = lengths[batch[0]]
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            for place, i in enumerate(batch):
                ids[place, : lengths[i]] = torch.tensor(data[i].ids)
            # right padding needs no mask, as nothing looks ahead
            states = network.base_model(
                input_ids=ids.to(network.device), use_cache=False
            ).last_hidden_state.float()
            positions = torch.arange(1, width + 1, device=states.device)
            sizes = torch.tensor([lengths[i] for i in batch], device=states.device)[:, None]
            weights = torch.where(positions <= sizes, positions, 0).float()
            weights /= weights.sum(1, keepdim=True)
            vectors[batch] = torch.einsum("btd,bt->bd", states, weights).cpu().numpy()
            embedded(len(batch))
    return vectors


def directions(vectors: Vectors, centre: Vectors) -> Vectors:
    """Return ``vectors`` from ``centre`` (width,) at unit length: hidden states share one large direction."""
    moved = vectors - centre
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    unit: Vectors = moved / np.maximum(lengths, 1e-12)
    return unit
