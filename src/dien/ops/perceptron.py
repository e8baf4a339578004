"""Attention and auxiliary scorer: a perceptron on every step, in one walk over the steps.

Both have two hidden layers of sigmoids and thousands of steps, and in both neighbouring steps share a part of the
input: the target is the same for all steps of a row, the state for all candidates of its next click. Layer by layer
most of the time goes into sending values to memory and back.

Axes: N steps, K inputs of a step, S rows, L inputs of a row, A and M units of the two hidden layers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.once import differentiable, once


def perceptron(
    x_NK: Tensor,
    shared_SL: Tensor,
    row_N: Tensor,
    first_AI: Tensor,
    bias_A: Tensor,
    second_MA: Tensor,
    bias_M: Tensor,
    output_1M: Tensor,
    bias_1: Tensor,
) -> Tensor:
    """Scores `[N, 1]` of three linear layers on `[shared[row], x]` with sigmoids between.

    The kernel runs for float32 and float64 on the CPU where the scan's does (see `engine_for`); everything else,
    autocast, and programs that are compiled or exported use torch's own layers. All compute `shared` once a row.

    Args:
        x_NK: the input that is a step's own.
        shared_SL: the input that the steps of a row share.
        row_N: int64, the row of each step; does not fall.
        first_AI, bias_A: the first layer, I = L + K.
        second_MA, bias_M: the second layer.
        output_1M, bias_1: the output.

    Raises:
        ValueError: from the kernel, if `row_N` falls or leaves `shared_SL`.
    """
    inputs = (x_NK, shared_SL, first_AI, bias_A, second_MA, bias_M, output_1M, bias_1)
    if not takes(*inputs) or not _fit(row_N, *inputs):
        first_NA = first_layer(x_NK, shared_SL, row_N, first_AI, bias_A)
        return F.linear(F.linear(first_NA.sigmoid(), second_MA, bias_M).sigmoid(), output_1M, bias_1)
    if differentiable(*inputs):
        score_N1: Tensor = _Perceptron.apply(row_N, *inputs)
        return score_N1
    return _forward(row_N, *inputs, save=False)[0]


def first_layer(x_NK: Tensor, shared_SL: Tensor, row_N: Tensor, weight_AI: Tensor, bias_A: Tensor) -> Tensor:
    """`linear([shared[row], x])`, [N, A]."""
    row_AL, own_AK = weight_AI.split([shared_SL.shape[1], x_NK.shape[1]], 1)
    return F.linear(x_NK, own_AK) + F.linear(shared_SL, row_AL, bias_A).index_select(0, row_N)


def _fit(row_N: Tensor, x_NK: Tensor, shared_SL: Tensor, first_AI: Tensor, *others: Tensor) -> bool:
    """Whether the kernel may walk over them; otherwise torch says what is wrong."""
    if x_NK.dim() != 2 or shared_SL.dim() != 2 or others[1].dim() != 2:
        return False
    second, first = others[1].shape
    shapes = tuple(tensor.shape for tensor in (first_AI, *others))
    inputs = shared_SL.shape[1] + x_NK.shape[1]
    fits = shapes == ((first, inputs), (first,), (second, first), (second,), (1, second), (1,))
    return fits and row_N.dtype == torch.int64 and row_N.is_cpu and row_N.shape == x_NK.shape[:1]


def _sizes(x_NK: Tensor, shared_SL: Tensor, second_MA: Tensor) -> tuple[int, int, int, int, int, int]:
    """N, K, S, L, A, M"""
    return *x_NK.shape, *shared_SL.shape, *reversed(second_MA.shape)


def _forward(
    row_N: Tensor, x_NK: Tensor, shared_SL: Tensor, first_AI: Tensor, bias_A: Tensor, *rest: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [N, 1], and the values of the hidden layers [N, A] and [N, M], empty unless `save`."""
    sizes = _sizes(x_NK, shared_SL, rest[0])
    steps, *_, first, second = sizes
    first_NA, second_NM = (x_NK.new_empty(steps if save else 0, units) for units in (first, second))
    score_N1 = x_NK.new_empty(steps, 1)
    kept = (first_NA, second_NM) if save else (None, None)
    _call("perceptron", (x_NK, shared_SL, row_N, first_AI, bias_A, *rest), sizes, (*kept, score_N1))
    return score_N1, first_NA, second_NM


def _backward(
    to_score_N1: Tensor,
    x_NK: Tensor,
    shared_SL: Tensor,
    row_N: Tensor,
    first_NA: Tensor,
    second_NM: Tensor,
    first_AI: Tensor,
    second_MA: Tensor,
    output_1M: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the scores with respect to the eight inputs other than `row_N`."""
    sizes = _sizes(x_NK, shared_SL, second_MA)
    *_, first, second = sizes
    shapes = (x_NK.shape, shared_SL.shape, first_AI.shape, (first,), second_MA.shape, (second,), output_1M.shape)
    gradients = tuple(x_NK.new_empty(shape) for shape in shapes)
    given = (to_score_N1, x_NK, shared_SL, row_N, first_NA, second_NM, first_AI, second_MA, output_1M)
    _call("perceptron_backward", given, sizes, gradients)
    return *gradients, to_score_N1.sum(0)


def _call(name: str, inputs: tuple[Tensor, ...], sizes: tuple[int, ...], outputs: tuple[Tensor | None, ...]) -> None:
    if call(name, inputs, sizes, outputs):
        raise ValueError(f"row_N must not fall nor leave the {sizes[2]} rows of shared_SL.")


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row_N: Tensor, x_NK: Tensor, shared_SL: Tensor, *layers: Tensor) -> Tensor:
        score_N1, *hidden = _forward(row_N, x_NK, shared_SL, *layers, save=True)
        ctx.save_for_backward(x_NK, shared_SL, row_N, *hidden, *layers[0:5:2])
        return score_N1

    @staticmethod
    def backward(ctx: Any, to_score_N1: Tensor) -> tuple[Tensor | None, ...]:
        return None, *once("The perceptron", _backward, to_score_N1, *ctx.saved_tensors)
