"""LoRA's layer (Hu et al., 2021, section 4.1) with fewer passes over memory, for CPUs."""

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F


class LoraProduct(torch.autograd.Function):
    """``x W^T + scale (x A^T) B^T``, the adapter's part added by the product that computes it.

    peft's layer writes that part, its multiple and the sum, and in the backward pass as many again: with them
    an adapter of rank 16 on SmolLM2-135M took 1.13 times the CPU time (docs/cuts/lora.md).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """Return (..., O) of ``x`` (..., I), ``weight`` (O, I), ``down`` A (R, I) and ``up`` B (O, R)."""
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ down.T
        ctx.save_for_backward(x, inner, weight, down, up)
        ctx.scale = scale
        return F.linear(rows, weight, bias).addmm_(inner, up.T, alpha=scale).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, A and B; W is frozen."""
        x, inner, weight, down, up = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        inner_grad = (grad @ up).mul_(ctx.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad @ weight).addmm_(inner_grad, down).view_as(x)
        # (R, O) and then transposed: 1.3 to 2 times as fast as (O, R) at rank 16
        up_grad = (inner.T @ grad).mul_(ctx.scale).T
        return x_grad, None, None, inner_grad.T @ x.reshape(-1, x.shape[-1]), up_grad, None


class LoraLinear(lora.Linear):  # type: ignore[misc]  # peft has no types
    """peft's layer, by ``LoraProduct`` where that computes the same."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base's output and the adapter's."""
        name, base = self.active_adapters[0], self.base_layer
        plain = (
            len(self.active_adapters) == 1
            and name not in self.lora_variant
            and isinstance(self.lora_dropout[name], nn.Identity)
            and not (self.disable_adapters or self.merged or args or kwargs)
        )
        if not plain or {x.dtype, base.weight.dtype, self.lora_A[name].weight.dtype} != {torch.float32}:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        given = x, base.weight, base.bias, down, up, self.scaling[name]
        return LoraProduct.apply(*given)  # type: ignore[no-any-return,no-untyped-call]
