"""What a model is trained and scored by: negative log-likelihood of answer tokens."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.training import attention
from components.training.batches import IGNORE


class AnswerLoss(nn.Module):
    """Cross-entropy over the answer tokens of a block, summed.

    The output layer sees only positions that have a target: on GSM8K about half of all logits are never
    computed. A pre-hook on the layer does it, so whatever a model does to its logits afterwards still holds.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._by_documents = attention.use_documents(model)
        self._keep: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._only_targets)

    def forward(self, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """(B, T) each; returns the sum in nats, a scalar."""
        return self.token_nats(ids, positions, targets).sum()

    def token_nats(self, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Nats of each target token, in reading order: (number of targets,)."""
        keep = targets != IGNORE
        extra = attention.inputs(attention.find_documents(positions), positions) if self._by_documents else {}
        self._keep = keep
        try:
            logits = self.model(input_ids=ids, position_ids=positions, use_cache=False, **extra).logits
        finally:
            self._keep = None
        return F.cross_entropy(logits[0].float(), targets[keep], reduction="none")

    def _only_targets(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self._keep is None else (args[0][self._keep][None],)  # (1, targets, D)
