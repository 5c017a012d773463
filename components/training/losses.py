"""The loss for training and scoring: negative log-likelihood of answer tokens."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from deepcuts.components.training import attention
from deepcuts.components.training.batches import IGNORE
from deepcuts.components.training.documents import find_documents

AttentionLayout = Literal["documents", "boundaries", "mask"]
"""How attention knows where examples begin: from our layout, from transformers' arguments for kernels, or
from the mask that transformers makes from the positions."""


class CompletionLoss(nn.Module):
    """Cross-entropy over the answer tokens of a micro-batch, summed.

    The output layer sees only positions with a target, which saves about half of the logits on GSM8K. This is
    done in a pre-hook of the layer, so anything a model does to its logits afterwards still applies.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.layout: AttentionLayout = "documents" if attention.use_documents(model) else "mask"
        self._keep: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._only_targets)

    @property
    def vocabulary(self) -> int:
        """Return the number of logits per token; not read from the head's weight, which may be quantized."""
        return int(self.model.config.get_text_config().vocab_size)

    def forward(self, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the loss in nats, a scalar; each argument is (B, T)."""
        return self.token_nats(ids, positions, targets).sum()

    def token_nats(self, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of each target token, in reading order: (number of targets,)."""
        logits, _ = self.at_targets(ids, positions, targets)
        return F.cross_entropy(logits, targets[targets != IGNORE], reduction="none")

    def at_targets(
        self, ids: Tensor, positions: Tensor, targets: Tensor, states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the model's outputs at the targets, in reading order.

        These are the logits (targets, V) in float32 and, if ``states``, the residual stream (targets, D)
        after the embeddings and after each layer, the last one normed.
        """
        extra: dict[str, Any] = {}
        if self.layout == "documents":
            extra = attention.inputs(find_documents(positions), positions)
        elif self.layout == "boundaries":  # as one row, for the kernels
            ids, positions, targets = (tensor.reshape(1, -1) for tensor in (ids, positions, targets))
            extra = attention.boundaries(positions)
        keep = targets != IGNORE
        self._keep = keep
        try:
            output = self.model(
                input_ids=ids, position_ids=positions, use_cache=False, output_hidden_states=states, **extra
            )
        finally:
            self._keep = None
        return output.logits[0].float(), [state[keep] for state in output.hidden_states or ()]

    def _only_targets(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self._keep is None else (args[0][self._keep][None],)  # (1, targets, D)
