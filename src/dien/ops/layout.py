"""What the kernels share: the update rules as numbers, and the tensors a forward and a backward fill."""

import torch
from torch import Tensor

# Every rule of `reference.WRITE` is w = (p + q * a) * u + s * a: its (p, q, s), so that kernels need no cases.
COEFFICIENTS: dict[str, tuple[float, float, float]] = {
    "gru": (1.0, 0.0, 0.0),
    "agru": (0.0, 0.0, 1.0),
    "augru": (0.0, 1.0, 0.0),
    "augru_code": (1.0, -1.0, 1.0),
}


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
