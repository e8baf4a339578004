"""The gated scan: which engine runs, on which tensors.

Axes: B rows, N real steps of all rows (row b owns `offsets[b]:offsets[b + 1]`), H hidden.
"""

from typing import Any

import torch
from torch import Tensor

from dien.errors import check_choice
from dien.ops import library, reference
from dien.ops.engines import engine_for, traced
from dien.ops.layout import check_inputs
from dien.ops.once import differentiable

RULES = tuple(reference.WRITE)


def gated_scan(
    projected_N3H: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    *,
    rule: str,
    initial_BH: Tensor | None = None,
) -> Tensor:
    """States `[N, H]` after each step of `h' = h + w * (n - h)`, row by row.

    With torch's GRU parameters (gates r, z, n; reset after the product) r, z = sigmoid(x + W h + b), u = 1 - z,
    n = tanh(x_n + r * (W_n h + b_n)), and w by `rule`: u ("gru", which is `nn.GRU`), a ("agru"), a * u ("augru",
    the paper's eq. 11-12), a + u - a * u ("augru_code", the authors' code).

    Args:
        projected_N3H: the input projection `x @ weight_ih.T + bias_ih`, floating point.
        attention_N: a of each step; None for the rule "gru", required by the others.
        offsets: int64 `[B + 1]`, rising from 0 to N; rows may be empty.
        weight_hh: `[3H, H]`.
        bias_hh: `[3H]`.
        rule: one of `RULES`.
        initial_BH: state before the first step; zeros if None.

    Returns:
        States of the dtype of `projected_N3H` (under autocast, that of the linear layer which made it). The
        recurrence itself runs in float32, or float64 for float64 input; each gradient has the dtype of its input.

    Raises:
        ConfigError: `rule` or DIEN_SCAN is not one of the allowed values, or a forced engine cannot run.
        ValueError: shapes, dtypes or devices do not fit together, or offsets do not rise to N (not checked by the
            Triton kernels, which would have to wait for the GPU).
    """
    if by_operator := traced():  # it checks when it runs: sizes may be unknown
        check_choice("rule", rule, RULES)
    else:
        check_inputs(projected_N3H, attention_N, offsets, weight_hh, bias_hh, initial_BH, rule)
    engine = engine_for(projected_N3H.device, projected_N3H.dtype)
    if engine == "reference":
        return reference.gated_scan(
            projected_N3H, attention_N, offsets, weight_hh, bias_hh, rule=rule, initial_BH=initial_BH
        )
    dtype = projected_N3H.dtype
    tensors: Any = (projected_N3H, attention_N, weight_hh, bias_hh, initial_BH)
    if engine == "cpu":  # the Triton kernels read half precision themselves
        wide = torch.promote_types(dtype, torch.float32)
        tensors = [x if x is None else x.to(wide) for x in tensors]
    projected, attention, weight, bias, initial = tensors
    save = differentiable(*tensors)
    inputs = (projected, attention, offsets, weight, bias, initial, rule, save)
    states_NH: Tensor
    if by_operator:
        states_NH = library.gated_scan(*inputs)[0]
    elif save:
        states_NH = library.Scan.apply(*inputs)
    else:
        states_NH = library.forward(*inputs)[0]
    return states_NH.to(dtype)
