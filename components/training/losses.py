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
        logits, _ = self.at_targets(ids, positions, targets)
        return F.cross_entropy(logits, targets[targets != IGNORE], reduction="none")

    def at_targets(
        self, ids: Tensor, positions: Tensor, targets: Tensor, states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """What the model says where there is a target, in reading order.

        Returns the logits (targets, V) in float32 and, if ``states``, the residual stream (targets, D) after
        the embeddings and after each layer, the last one normed.
        """
        keep = targets != IGNORE
        extra = attention.inputs(attention.find_documents(positions), positions) if self._by_documents else {}
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
