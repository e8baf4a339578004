"""What attention and auxiliary scorer do after their first layer, in one walk over the steps.

Both are perceptrons with two hidden layers of sigmoids on thousands of steps, whose first product is taken elsewhere
because parts of it are shared. Layer by layer most of the time goes into sending values to memory and back.

Axes: N steps, A and M units of the two hidden layers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.once import once


def perceptron(x_NA: Tensor, weight_MA: Tensor, bias_M: Tensor, weight_1M: Tensor, bias_1: Tensor) -> Tensor:
    """`linear(sigmoid(linear(sigmoid(x))))`, the scores `[N, 1]`.

    The kernel runs for float32 and float64 on the CPU where the scan's does (see `engine_for`); everything else,
    autocast, and programs that are compiled or exported use torch's own layers.
    """
    inputs = (x_NA, weight_MA, bias_M, weight_1M, bias_1)
    if not takes(*inputs) or x_NA.shape[1:] != weight_MA.shape[1:] or weight_1M.shape != (1, len(weight_MA)):
        return F.linear(F.linear(x_NA.sigmoid(), weight_MA, bias_M).sigmoid(), weight_1M, bias_1)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        score_N1: Tensor = _Perceptron.apply(*inputs)
        return score_N1
    return _forward(*inputs, save=False)[0]


def _forward(
    x_NA: Tensor, weight_MA: Tensor, bias_M: Tensor, weight_1M: Tensor, bias_1: Tensor, *, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [N, 1], and the values of the hidden layers [N, A] and [N, M], empty unless `save`."""
    steps, (units, inputs) = len(x_NA) if save else 0, weight_MA.shape
    first, second = x_NA.new_empty(steps, inputs), x_NA.new_empty(steps, units)
    score_N1 = x_NA.new_empty(len(x_NA), 1)
    kept = (first, second) if save else (None, None)
    sizes, parameters = (*x_NA.shape, units), (weight_MA, bias_M, weight_1M, bias_1)
    call("perceptron", (x_NA, *parameters), sizes, (*kept, score_N1))
    return score_N1, first, second


def _backward(
    to_score_N1: Tensor, first_NA: Tensor, second_NM: Tensor, weight_MA: Tensor, weight_1M: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the scores with respect to the five inputs."""
    to_x, to_bias = first_NA.new_empty(first_NA.shape), weight_MA.new_empty(len(weight_MA))
    to_weight, to_output = weight_MA.new_empty(weight_MA.shape), weight_1M.new_empty(weight_1M.shape)
    inputs = (to_score_N1, first_NA, second_NM, weight_MA, weight_1M)
    sizes = (*first_NA.shape, len(weight_MA))
    call("perceptron_backward", inputs, sizes, (to_x, to_weight, to_bias, to_output))
    return to_x, to_weight, to_bias, to_output, to_score_N1.sum(0)


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NA: Tensor, weight_MA: Tensor, bias_M: Tensor, weight_1M: Tensor, bias_1: Tensor) -> Tensor:
        score_N1, *hidden = _forward(x_NA, weight_MA, bias_M, weight_1M, bias_1, save=True)
        ctx.save_for_backward(*hidden, weight_MA, weight_1M)
        return score_N1

    @staticmethod
    def backward(ctx: Any, to_score_N1: Tensor) -> tuple[Tensor, ...]:
        gradients: tuple[Tensor, ...] = once("The perceptron", _backward, to_score_N1, *ctx.saved_tensors)
        return gradients
