"""Attention and auxiliary scorer: a perceptron on every step, in one walk over the steps.

Both have two hidden layers of sigmoids and thousands of steps, and in both a part of the first layer is the same for
neighbouring steps: the target's for all steps of a row, the state's for all candidates of its next click. Layer by
layer most of the time goes into sending values to memory and back.

Axes: N steps, K inputs, S rows of the shared part, A and M units of the two hidden layers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.once import once


def perceptron(
    x_NK: Tensor,
    weight_AK: Tensor,
    shared_SA: Tensor,
    row_N: Tensor,
    weight_MA: Tensor,
    bias_M: Tensor,
    weight_1M: Tensor,
    bias_1: Tensor,
) -> Tensor:
    """`linear(sigmoid(linear(sigmoid(linear(x) + shared[row]))))`, the scores `[N, 1]`.

    The kernel runs for float32 and float64 on the CPU where the scan's does (see `engine_for`); everything else,
    autocast, and programs that are compiled or exported use torch's own layers.

    Args:
        x_NK: what is a step's own.
        weight_AK: the first layer's weight for it.
        shared_SA: what several steps share of the first layer's sum, with its bias.
        row_N: int64, the row of `shared_SA` that each step adds; does not fall.
        weight_MA, bias_M: the second layer.
        weight_1M, bias_1: the output.

    Raises:
        ValueError: from the kernel, if `row_N` falls or leaves `shared_SA`.
    """
    inputs = (x_NK, weight_AK, shared_SA, weight_MA, bias_M, weight_1M, bias_1)
    if not takes(*inputs) or not _fit(row_N, *inputs):
        first_NA = F.linear(x_NK, weight_AK) + shared_SA.index_select(0, row_N)
        return F.linear(F.linear(first_NA.sigmoid(), weight_MA, bias_M).sigmoid(), weight_1M, bias_1)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        score_N1: Tensor = _Perceptron.apply(row_N, *inputs)
        return score_N1
    return _forward(row_N, *inputs, save=False)[0]


def _fit(row_N: Tensor, x_NK: Tensor, weight_AK: Tensor, shared_SA: Tensor, weight_MA: Tensor, *others: Tensor) -> bool:
    """Whether the kernel may walk over them; otherwise torch says what is wrong."""
    steps, inputs = x_NK.shape
    second, first = weight_MA.shape
    shapes = tuple(tensor.shape for tensor in (weight_AK, shared_SA[:0], *others))
    fits = shapes == ((first, inputs), (0, first), (second,), (1, second), (1,))
    return fits and row_N.dtype == torch.int64 and row_N.is_cpu and row_N.shape == (steps,)


def _forward(
    row_N: Tensor,
    x_NK: Tensor,
    weight_AK: Tensor,
    shared_SA: Tensor,
    weight_MA: Tensor,
    bias_M: Tensor,
    weight_1M: Tensor,
    bias_1: Tensor,
    *,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [N, 1], and the values of the hidden layers [N, A] and [N, M], empty unless `save`."""
    (steps, inputs), (second, first) = x_NK.shape, weight_MA.shape
    first_NA, second_NM = (x_NK.new_empty(steps if save else 0, units) for units in (first, second))
    score_N1 = x_NK.new_empty(steps, 1)
    kept = (first_NA, second_NM) if save else (None, None)
    given = (x_NK, weight_AK, shared_SA, row_N, weight_MA, bias_M, weight_1M, bias_1)
    _call("perceptron", given, (steps, inputs, len(shared_SA), first, second), (*kept, score_N1))
    return score_N1, first_NA, second_NM


def _backward(
    to_score_N1: Tensor,
    rows: int,
    row_N: Tensor,
    x_NK: Tensor,
    first_NA: Tensor,
    second_NM: Tensor,
    weight_AK: Tensor,
    weight_MA: Tensor,
    weight_1M: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the scores with respect to the seven inputs other than `row_N`; S = `rows`."""
    (steps, inputs), (second, first) = x_NK.shape, weight_MA.shape
    given = (to_score_N1, x_NK, row_N, first_NA, second_NM, weight_AK, weight_MA, weight_1M)
    shapes = ((steps, inputs), (first, inputs), (rows, first), (second, first), (second,), (1, second))
    gradients = tuple(x_NK.new_empty(shape) for shape in shapes)
    _call("perceptron_backward", given, (steps, inputs, rows, first, second), gradients)
    return *gradients, to_score_N1.sum(0)


def _call(name: str, inputs: tuple[Tensor, ...], sizes: tuple[int, ...], outputs: tuple[Tensor | None, ...]) -> None:
    if call(name, inputs, sizes, outputs):
        raise ValueError(f"row_N must not fall nor leave the {sizes[2]} rows of shared_SA.")


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, row_N: Tensor, x_NK: Tensor, weight_AK: Tensor, shared_SA: Tensor, weight_MA: Tensor, *others: Tensor
    ) -> Tensor:
        score_N1, *hidden = _forward(row_N, x_NK, weight_AK, shared_SA, weight_MA, *others, save=True)
        ctx.rows = len(shared_SA)
        ctx.save_for_backward(row_N, x_NK, *hidden, weight_AK, weight_MA, others[1])
        return score_N1

    @staticmethod
    def backward(ctx: Any, to_score_N1: Tensor) -> tuple[Tensor | None, ...]:
        return None, *once("The perceptron", _backward, to_score_N1, ctx.rows, *ctx.saved_tensors)
