"""The gated scan in plain torch: the definition that every faster engine is tested against.

Axes: B rows, T steps of the longest row, N real steps of all rows (row b owns `offsets[b]:offsets[b + 1]`), H hidden.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.layout import offsets_error

# The share w of the candidate that a step writes, from the update gate u and the attention a.
WRITE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gru": lambda u, a: u,
    "agru": lambda u, a: a,
    "augru": lambda u, a: a * u,
    "augru_code": lambda u, a: a + u - a * u,
}


def gates(projected_B3H: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor]:
    """Update gate u and candidate n of a step from state h: torch's GRU with z = 1 - u, reset after the product."""
    x_r, x_z, x_n = projected_B3H.chunk(3, dim=-1)
    h_r, h_z, h_n = F.linear(h, weight_hh, bias_hh).chunk(3, dim=-1)
    r = torch.sigmoid(x_r + h_r)
    u = torch.sigmoid(-(x_z + h_z))
    n = torch.tanh(x_n + r * h_n)
    return u, n


def step(
    projected_B3H: Tensor, attention_B1: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor, rule: str
) -> Tensor:
    """One step, `h' = h + w(u, a) * (n - h)`."""
    u, n = gates(projected_B3H, h, weight_hh, bias_hh)
    return h + WRITE[rule](u, attention_B1) * (n - h)


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
    """The states `[N, H]` of every real step: `dien.ops.gated_scan` on any device and dtype, differentiable twice.

    Works on the padded `[B, T]` layout inside, so its cost is that of the longest row. Half precision is computed in
    float32 and rounded once at the end, as in the kernels.
    """
    dtype = torch.float64 if projected_N3H.dtype == torch.float64 else torch.float32
    length_B = offsets.diff()
    batch, hidden = len(length_B), weight_hh.shape[1]
    lengths = length_B.tolist()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(projected_N3H) or min(lengths, default=0) < 0:
        raise offsets_error(offsets, len(projected_N3H))
    longest = max([1, *lengths])  # a step of padding if there is no other: every input then has a gradient
    real_BT = torch.arange(longest, device=offsets.device) < length_B[:, None]

    with torch.autocast(projected_N3H.device.type, enabled=False):
        weight_hh, bias_hh = weight_hh.to(dtype), bias_hh.to(dtype)
        projected_BT3H = _padded(projected_N3H.to(dtype), real_BT)
        attention_BT1 = (
            real_BT[..., None].to(dtype) if attention_N is None else _padded(attention_N.to(dtype)[:, None], real_BT)
        )
        h = projected_N3H.new_zeros(batch, hidden, dtype=dtype) if initial_BH is None else initial_BH.to(dtype)
        states = [h]
        for t in range(longest):
            h = step(projected_BT3H[:, t], attention_BT1[:, t], h, weight_hh, bias_hh, rule)
            states.append(h)
        return torch.stack(states, dim=1)[:, 1:][real_BT].to(projected_N3H.dtype)


def _padded(flat_NX: Tensor, real_BT: Tensor) -> Tensor:
    """`[N, X]` laid out as `[B, T, X]`, zeros where there is no step."""
    return flat_NX.new_zeros(*real_BT.shape, flat_NX.shape[1]).index_put((real_BT,), flat_NX)
