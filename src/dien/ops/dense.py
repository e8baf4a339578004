"""A linear layer for long lists of steps, on the CPU two to three times as fast as torch's.

torch's matrix products are made for large matrices. A network that works on the flat list of real steps multiplies
thousands of rows by weights of a few tens of columns, which the kernels of the scan do at twice the speed; the
gradients of input, weight and bias are taken in one walk over the list.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.engines import traced
from dien.ops.once import once

FEWEST = 1 << 22  # multiply-adds below which the call of an operator costs more than it gains
LARGEST = 1 << 17  # weights above which torch's blocking for large matrices is the better one


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, as `torch.nn.functional.linear`; `x [..., K]`, `weight [M, K]`, `bias [M]`.

    The kernel runs for float32 and float64 on the CPU where the scan's does (see `engine_for`), for long lists and
    small weights; everything else, autocast, and programs that are compiled or exported use torch's own layer.
    """
    # `traced` comes before all sizes, which would become limits of the program.
    if traced() or x.numel() * len(weight) < FEWEST or not (takes(x, weight, bias) and fits(x, weight, bias)):
        return F.linear(x, weight, bias)
    # Without gradients, the call of an autograd function would cost more than a small kernel.
    run = _Linear.apply if torch.is_grad_enabled() else forward
    y: Tensor = run(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """`nn.Linear` (parameters, initialisation, state dict) that calls `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the shapes are those of a layer, and the kernel is not the wrong one for so large weights."""
    return (
        x.dim() >= 1
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
        and weight.numel() <= LARGEST
    )


def forward(x_NK: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` of tensors that suit."""
    y_NM = x_NK.new_empty(len(x_NK), len(weight))
    call("linear", (x_NK, weight, bias), (*x_NK.shape, len(weight)), (y_NM,))
    return y_NM


def backward(grad_NM: Tensor, x_NK: Tensor, weight: Tensor, needs_x: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of `forward` with respect to input (None unless `needs_x`), weight and bias."""
    to_x = x_NK.new_empty(x_NK.shape) if needs_x else None
    to_weight, to_bias = weight.new_empty(weight.shape), weight.new_empty(len(weight))
    sizes, outputs = (*x_NK.shape, len(weight)), (to_x, to_weight, to_bias)
    call("linear_backward", (grad_NM, x_NK, weight), sizes, outputs)
    return to_x, to_weight, to_bias


class _Linear(torch.autograd.Function):
    """The kernel behind `linear`; x `[N, K]`.

    Like all functions of this package it has no `setup_context`: torch would look the signature of `forward` up at
    every call, which takes longer than a small kernel.
    """

    @staticmethod
    def forward(ctx: Any, x_NK: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x_NK, weight)
        return forward(x_NK, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_NM: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        inputs = (grad_NM, *ctx.saved_tensors, ctx.needs_input_grad[0])
        to_x, to_weight, to_bias = once("The linear kernel", backward, *inputs)
        return to_x, to_weight, to_bias if ctx.has_bias else None
