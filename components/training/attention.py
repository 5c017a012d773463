"""Attention within each example of packed rows, and to a prefix the example shares.

A dense block mask (which transformers builds from restarting positions) costs the whole T x T square of every
row. Here the examples of a pass are grouped by length, and each group goes through causal SDPA without a
mask, so the cost no longer depends on seq_len. stories260K on GSM8K, tokens per CPU-second of forward and
backward, one AVX2 core, torch 2.13: 14,100 against 8,600 with rows of 512, equal with rows of 257.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from deepcuts.components.training.documents import Documents, Group, find_documents

NAME = "documents"
PROBE_TOKENS = 12
PROBE_TOLERANCE = 1e-4
"""Largest difference of two logits, relative to the largest logit; 1e-6 was seen with both correct."""
SIXTEEN_BITS = 500
"""Factor on it for 16 bits: rounding alone is 0.8 % in bfloat16."""


def use_documents(model: PreTrainedModel) -> bool:
    """Switch a model to this attention if the results are the same; otherwise keep its own.

    Model types pass different arguments (StableLM drops the layout) and mask differently (Llama 4 attends in
    chunks), so two short rows are compared, unless there are no weights (meta device).
    """
    if not model._supports_sdpa or chunk_tokens(model):  # chunks would show only in longer rows
        return False
    own = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    if not has_numbers(model) or _computes_as(model, own):
        return True
    model.set_attn_implementation(own)
    return False


def has_numbers(model: nn.Module) -> bool:
    """Tell whether a model's weights have values, not only shapes (``components/plan/trace.py``)."""
    weight = next(model.parameters())
    return not (weight.is_meta or is_fake(weight))


def chunk_tokens(model: PreTrainedModel) -> int:
    """Return the size of the chunks that attention is limited to (Llama 4); 0 if it is not."""
    return int(getattr(model.config.get_text_config(), "attention_chunk_size", None) or 0)


def _computes_as(model: PreTrainedModel, own: str) -> bool:
    """Tell whether two rows' logits equal those of the attention ``own``; the model now uses this one."""
    rows = int(model.config.get_text_config().vocab_size)  # peft's embedding wrappers do not have it
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(rows, (2, PROBE_TOKENS), generator=generator).to(model.device)
    positions = torch.arange(PROBE_TOKENS, device=ids.device).expand(2, -1)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            extra = inputs(find_documents(positions), positions)
            found = model(input_ids=ids, position_ids=positions, use_cache=False, **extra).logits
            model.set_attn_implementation(own)
            wanted = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    except (RuntimeError, TypeError, ValueError):
        return False
    finally:
        model.train(training)
        model.set_attn_implementation(NAME)
    tolerance = PROBE_TOLERANCE * (1 if wanted.dtype is torch.float32 else SIXTEEN_BITS)
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def inputs(documents: Documents, positions: Tensor) -> dict[str, Any]:
    """Return extra arguments for the model's forward: the layout, and a 4-D mask so that none is built."""
    return {"documents": documents, "attention_mask": positions.new_zeros(1, 1, 1, 1)}


@torch.compiler.disable  # type: ignore[untyped-decorator]  # groups change every step: each would recompile
def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend: query (B, H, T, D), key and value (B, K, T, D) with K dividing H -> (B, T, H, D)."""
    if documents is None:  # generation, label choice: transformers' path and mask
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    batch, heads, length, width = query.shape
    flat = [x.transpose(1, 2).reshape(batch * length, x.shape[1], width) for x in (query, key, value)]
    outputs = []
    for group in documents.groups:
        q, k, v = (
            x.index_select(0, tokens.flatten()).view(*tokens.shape, -1, width).transpose(1, 2)
            for x, tokens in zip(flat, (group.queries, group.keys, group.keys), strict=True)
        )
        mask = _mask(group, documents.positions, sliding_window)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        outputs.append(out.transpose(1, 2).reshape(-1, heads, width))
    joined = torch.cat(outputs).index_select(0, documents.places)
    return joined.view(batch, length, heads, width), None


def _mask(group: Group, positions: Tensor, window: int | None) -> Tensor | None:
    """Return the mask of a group's queries, limited by a sliding window; None: causal."""
    if window is None or group.keys.shape[1] <= window:
        return group.mask
    if group.mask is None:
        ones = torch.ones(group.keys.shape[1], group.keys.shape[1], dtype=torch.bool, device=positions.device)
        return ones.tril() & ones.triu(1 - window)
    ago = positions[group.queries][:, None, :, None] - positions[group.keys][:, None, None, :]
    return group.mask & (ago < window)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def boundaries(positions: Tensor) -> dict[str, Any]:
    """Return where examples begin, in the form of transformers' state-space kernels; positions (1, T)."""
    starts = (positions[0] == 0).nonzero()[:, 0]
    ends = torch.cat([starts, starts.new_tensor([positions.shape[1]])]).int()
    longest = int(ends.diff().max())
    return {
        "seq_idx": ((positions == 0).cumsum(1) - 1).int(),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }
