"""What the kernels share: the update rules as numbers, which inputs fit, and the tensors they fill."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dien.errors import check_choice

# Every rule of `reference.WRITE` is w = (p + q * a) * u + s * a: its (p, q, s), so that kernels need no cases.
COEFFICIENTS: dict[str, tuple[float, float, float]] = {
    "gru": (1.0, 0.0, 0.0),
    "agru": (0.0, 0.0, 1.0),
    "augru": (0.0, 1.0, 0.0),
    "augru_code": (1.0, -1.0, 1.0),
}


def check_inputs(
    projected_N3H: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    initial_BH: Tensor | None,
    rule: str,
    save: bool = False,
) -> None:
    """That the inputs of `gated_scan` fit together: kernels read as far as the sizes say and see no tensor's end.

    Raises:
        ConfigError: `rule` is none of `COEFFICIENTS`.
        ValueError: shapes, dtypes or devices do not fit together.
    """
    steps, hidden = len(projected_N3H), weight_hh.shape[-1]
    parts = {"projected_N3H": (projected_N3H, (steps, 3 * hidden)), "bias_hh": (bias_hh, (3 * hidden,))}
    _check(parts, attention_N, offsets, weight_hh, initial_BH, rule, steps)


def check_gradients(
    grad_states_NH: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    initial_BH: Tensor | None,
    states_NH: Tensor,
    saved_N4H: Tensor,
    rule: str,
) -> None:
    """`check_inputs` of a backward."""
    steps, hidden = len(states_NH), weight_hh.shape[-1]
    parts = {
        "grad_states_NH": (grad_states_NH, (steps, hidden)),
        "states_NH": (states_NH, (steps, hidden)),
        "saved_N4H": (saved_N4H, (steps, 4 * hidden)),
    }
    _check(parts, attention_N, offsets, weight_hh, initial_BH, rule, steps)


def _check(
    parts: Mapping[str, tuple[Tensor | None, tuple[int, ...]]],
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    initial_BH: Tensor | None,
    rule: str,
    steps: int,
) -> None:
    """`parts` are what forward and backward do not share, and their shapes."""
    check_choice("rule", rule, tuple(COEFFICIENTS))
    if (attention_N is None) != (rule == "gru"):
        raise ValueError(f"rule {rule!r} {'takes no' if rule == 'gru' else 'needs an'} attention_N.")
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) < 1:
        raise ValueError(f"offsets must be int64 [B + 1], got {offsets.dtype} {list(offsets.shape)}.")
    hidden = weight_hh.shape[-1]
    expected = {
        **parts,
        "attention_N": (attention_N, (steps,)),
        "weight_hh": (weight_hh, (3 * hidden, hidden)),
        "initial_BH": (initial_BH, (len(offsets) - 1, hidden)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.shape != shape or not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point {list(shape)}, got {tensor.dtype} {list(tensor.shape)}.")
        if tensor.device != offsets.device:
            raise ValueError(f"{name} is on {tensor.device}, offsets on {offsets.device}: they must be on one device.")


def offsets_error(offsets: Tensor, steps: int) -> ValueError:
    """For offsets that do not cut `steps` steps into rows."""
    return ValueError(f"offsets must rise from 0 to the number of steps ({steps}), got {offsets.tolist()}.")


def empty_results(projected_N3H: Tensor, weight_hh: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    """States `[N, H]` and saved gates `[N, 4H]` (r, u, n and the hidden part of n; `[0, 4H]` unless `save`).

    States have the dtype of `projected_N3H`, saved gates are at least float32.
    """
    steps, hidden = projected_N3H.shape[0], weight_hh.shape[1]
    dtype = torch.promote_types(projected_N3H.dtype, torch.float32)
    new = projected_N3H.new_empty
    return new(steps, hidden), new(steps if save else 0, 4 * hidden, dtype=dtype)


def empty_gradients(
    states_NH: Tensor, attention_N: Tensor | None, weight_hh: Tensor, initial_BH: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of projected input, attention, weight, bias and initial state; of shape `[0]` where there is no such input."""
    steps, hidden = states_NH.shape
    return (
        states_NH.new_empty(steps, 3 * hidden),
        states_NH.new_empty(0) if attention_N is None else attention_N.new_empty(attention_N.shape),
        weight_hh.new_empty(weight_hh.shape),
        weight_hh.new_empty(3 * hidden),
        states_NH.new_empty(0) if initial_BH is None else initial_BH.new_empty(initial_BH.shape),
    )
