"""Dice, the activation of the click head: a dozen small operations of torch and their gradients as one.

Axes: B rows, D columns.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.once import differentiable, once


def dice(
    x_BD: Tensor,
    slope_D: Tensor,
    running_mean_D: Tensor,
    running_var_D: Tensor,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """`x * (p + slope * (1 - p))`, `p = sigmoid((x - mean) / sqrt(var + eps))`.

    The kernel runs for float32 and float64 on the CPU where the scan's does (see `engine_for`); everything else,
    autocast, and programs that are compiled or exported use torch's own operations.

    Args:
        x_BD: at least two rows in training.
        slope_D: of the values below the mean.
        running_mean_D, running_var_D: statistics over batches.
        training: normalise with the statistics of the batch and move the running ones, as `F.batch_norm` does.
        momentum: by which share they move.
        eps: added to the variance.
    """
    inputs = (x_BD, slope_D, running_mean_D, running_var_D)
    if not takes(*inputs) or not _fit(*inputs, training):
        normal_BD = F.batch_norm(x_BD, running_mean_D, running_var_D, training=training, momentum=momentum, eps=eps)
        return rectified(x_BD, normal_BD, slope_D)
    if differentiable(x_BD, slope_D):
        y_BD: Tensor = _Dice.apply(*inputs, training, momentum, eps)
        return y_BD
    return _forward(*inputs, training, momentum, eps, save=False)[0]


def _fit(x_BD: Tensor, slope_D: Tensor, running_mean_D: Tensor, running_var_D: Tensor, training: bool) -> bool:
    """Whether the kernel may walk over them; otherwise torch says what is wrong."""
    columns = (slope_D, running_mean_D, running_var_D)
    shapes_fit = x_BD.dim() == 2 and all(tensor.shape == x_BD.shape[1:] for tensor in columns)
    return shapes_fit and running_mean_D.is_contiguous() and running_var_D.is_contiguous() and x_BD.shape[0] > training


def rectified(x_BD: Tensor, normal_BD: Tensor, slope_D: Tensor) -> Tensor:
    """Dice of x, from x normalised."""
    gate_BD = normal_BD.sigmoid()
    return x_BD * (gate_BD + slope_D * (1 - gate_BD))


def _forward(
    x_BD: Tensor,
    slope_D: Tensor,
    running_mean_D: Tensor,
    running_var_D: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    *,
    save: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Dice; the sigmoids, None unless `save`; mean and scale of the normalisation."""
    y_BD, gate_BD = x_BD.new_empty(x_BD.shape), x_BD.new_empty(x_BD.shape) if save else None
    mean_D, scale_D = (x_BD.new_empty(slope_D.shape) for _ in range(2))
    made = (y_BD, gate_BD, mean_D, scale_D)
    running = (running_mean_D, running_var_D)
    call("dice", (x_BD, slope_D), (*x_BD.shape, training), (*made, *running), numbers=(momentum, eps))
    return made


def _backward(
    to_y_BD: Tensor, training: bool, x_BD: Tensor, slope_D: Tensor, gate_BD: Tensor, mean_D: Tensor, scale_D: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x and slope."""
    to_x_BD, to_slope_D = x_BD.new_empty(x_BD.shape), slope_D.new_empty(slope_D.shape)
    inputs = (to_y_BD, x_BD, gate_BD, slope_D, mean_D, scale_D)
    call("dice_backward", inputs, (*x_BD.shape, training), (to_x_BD, to_slope_D))
    return to_x_BD, to_slope_D


class _Dice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, slope_D: Tensor, *others: Any) -> Tensor:
        y_BD, *kept = _forward(x_BD, slope_D, *others, save=True)
        ctx.training = others[2]
        ctx.save_for_backward(x_BD, slope_D, *kept)
        return y_BD

    @staticmethod
    def backward(ctx: Any, to_y_BD: Tensor) -> tuple[Tensor | None, ...]:
        gradients = once("The kernel of Dice", _backward, to_y_BD, ctx.training, *ctx.saved_tensors)
        return *gradients, None, None, None, None, None
