"""A recurrent layer: the input projection and the gated scan, in training one step of autograd.

Axes: N steps, I inputs, H hidden.
"""

from typing import Any

import torch
from torch import Tensor

from dien.ops import cpu, dense
from dien.ops.layout import check_inputs
from dien.ops.once import differentiable, once
from dien.ops.scan import gated_scan


def recurrence(
    x_NI: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_ih: Tensor,
    bias_ih: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    *,
    rule: str,
) -> Tensor:
    """States `[N, H]` of `gated_scan` on `linear(x, weight_ih, bias_ih)`; all arguments are those of these two.

    Autograd sees one function where both kernels of the CPU would run: to call another costs as much as a short scan.
    """
    tensors = (x_NI, attention_N, weight_ih, bias_ih, weight_hh, bias_hh)
    fit = differentiable(*tensors) and cpu.takes(*tensors) and x_NI.dim() == 2 and dense.fits(x_NI, weight_ih, bias_ih)
    if not fit:
        return gated_scan(dense.linear(x_NI, weight_ih, bias_ih), attention_N, offsets, weight_hh, bias_hh, rule=rule)
    states_NH: Tensor = _Recurrence.apply(x_NI, attention_N, offsets, weight_ih, bias_ih, weight_hh, bias_hh, rule)
    return states_NH


def _backward(
    to_states_NH: Tensor,
    x_NI: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    states_NH: Tensor,
    saved_N4H: Tensor,
    rule: str,
) -> tuple[Tensor | None, ...]:
    """Gradients with respect to x, attention, weight_ih, bias_ih, weight_hh and bias_hh."""
    to_projected, to_attention, *to_hidden, _ = cpu.backward(
        to_states_NH, attention_N, offsets, weight_hh, None, states_NH, saved_N4H, rule
    )
    to_x, *to_input = dense.backward(to_projected, x_NI, weight_ih, True)
    return to_x, None if attention_N is None else to_attention, *to_input, *to_hidden


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        attention_N: Tensor | None,
        offsets: Tensor,
        weight_ih: Tensor,
        bias_ih: Tensor,
        weight_hh: Tensor,
        bias_hh: Tensor,
        rule: str,
    ) -> Tensor:
        projected_N3H = dense.forward(x_NI, weight_ih, bias_ih)
        check_inputs(projected_N3H, attention_N, offsets, weight_hh, bias_hh, None, rule)
        states_NH, saved_N4H = cpu.forward(
            projected_N3H, attention_N, offsets, weight_hh, bias_hh, None, rule, save=True
        )
        ctx.rule = rule
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x_NI, attention_N, offsets, weight_ih, weight_hh, states_NH, saved_N4H)
        return states_NH

    @staticmethod
    def backward(ctx: Any, to_states_NH: Tensor | None) -> tuple[Tensor | None, ...]:
        if to_states_NH is None:
            return (None,) * 8
        gradients = once("The recurrence", _backward, to_states_NH, *ctx.saved_tensors, ctx.rule)
        to_x, to_attention, *to_weights = gradients
        return to_x, to_attention, None, *to_weights, None
