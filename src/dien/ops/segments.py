"""The flat list of a batch's real steps: where each lies, a softmax over the steps of a row, a row's last state.

On the CPU each is one call of a kernel instead of half a dozen small operations of torch and their gradients, which at
ordinary sizes take longer to call than to compute.

Axes: B rows, T padded steps, N real steps of all rows (row b owns `offsets[b]:offsets[b + 1]`), H columns.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.engines import engine_for, traced
from dien.ops.layout import offsets_error
from dien.ops.once import differentiable, once


def flat_steps(length_B: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets `[B + 1]`, the row of every step and its cell in the padded layout, `[N]` each, all int64.

    Args:
        length_B: int64, within 0 and `width`.
        width: T.

    Raises:
        ValueError: from the kernel, for a length out of range.
    """
    if traced() or not length_B.is_cpu or length_B.dtype != torch.int64 or engine_for("cpu") != "cpu":
        mask_BT = torch.arange(width, device=length_B.device) < length_B[:, None]
        offsets = torch.cat([length_B.new_zeros(1), length_B.cumsum(0)])
        cell_N = mask_BT.flatten().nonzero().squeeze(1)
        return offsets, cell_N // max(width, 1), cell_N
    rows, steps = len(length_B), max(int(length_B.sum()), 0)
    made = (length_B.new_empty(rows + 1), length_B.new_empty(steps), length_B.new_empty(steps))
    if call("flat_steps", (length_B,), (rows, width, steps), made):
        raise ValueError(f"lengths must lie within 0 and the width {width}, got {length_B.tolist()}.")
    return made


def softmax(score_N: Tensor, offsets: Tensor, cell_N: Tensor, width: int) -> Tensor:
    """Softmax over the steps of each row, `[N]`; the layout is that of `flat_steps`.

    Raises:
        ValueError: from the kernel, if offsets do not rise to N.
    """
    if not _fit(score_N, 1, offsets):
        if not len(score_N):  # every history is empty: there is nothing to normalise, and no maximum over T = 0
            return score_N
        rows = len(offsets) - 1
        score_BT = score_N.new_full((rows * width,), -torch.inf).index_copy(0, cell_N, score_N).view(rows, width)
        # A row without steps is all -inf, whose softmax is NaN; it owns no flat step, so the NaN is never read.
        return score_BT.softmax(1).flatten().index_select(0, cell_N)
    if differentiable(score_N):
        share_N: Tensor = _Softmax.apply(score_N, offsets)
        return share_N
    return _softmax(score_N, offsets)


def last_state(states_NH: Tensor, offsets: Tensor, initial_BH: Tensor | None = None) -> Tensor:
    """State `[B, H]` after the last step of each row; `initial_BH`, or zeros, for rows of length 0.

    Raises:
        ValueError: from the kernel, if offsets do not rise to N.
    """
    if initial_BH is None and _fit(states_NH, 2, offsets):
        if differentiable(states_NH):
            last_BH: Tensor = _Last.apply(states_NH, offsets)
            return last_BH
        return _last(states_NH, offsets)
    ended_B = offsets.diff() > 0
    # Empty rows read a row of zeros put in front: no branch on N, which torch.export does not know.
    state_BH = F.pad(states_NH, (0, 0, 1, 0))[torch.where(ended_B, offsets[1:], 0)]
    return state_BH if initial_BH is None else torch.where(ended_B[:, None], state_BH, initial_BH.to(state_BH.dtype))


def _fit(flat: Tensor, axes: int, offsets: Tensor) -> bool:
    """Whether the kernels can take a flat list with so many axes; otherwise torch says what is wrong."""
    return (
        takes(flat)  # before all sizes, which would become limits of a traced program
        and flat.dim() == axes
        and offsets.is_cpu
        and offsets.dtype == torch.int64
        and offsets.dim() == 1
        and len(offsets) > 0
    )


def _softmax(score_N: Tensor, offsets: Tensor) -> Tensor:
    share_N = score_N.new_empty(score_N.shape)
    if call("softmax", (score_N, offsets), (len(offsets) - 1, len(score_N)), (share_N,)):
        raise offsets_error(offsets, len(score_N))
    return share_N


def _softmax_backward(to_share_N: Tensor, share_N: Tensor, offsets: Tensor) -> Tensor:
    to_score_N = share_N.new_empty(share_N.shape)
    call("softmax_backward", (to_share_N, share_N, offsets), (len(offsets) - 1,), (to_score_N,))
    return to_score_N


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score_N: Tensor, offsets: Tensor) -> Tensor:
        share_N = _softmax(score_N, offsets)
        ctx.save_for_backward(share_N, offsets)
        return share_N

    @staticmethod
    def backward(ctx: Any, to_share_N: Tensor) -> tuple[Tensor, None]:
        return once("The softmax of rows", _softmax_backward, to_share_N, *ctx.saved_tensors), None


def _last(states_NH: Tensor, offsets: Tensor) -> Tensor:
    steps, columns = states_NH.shape
    state_BH = states_NH.new_empty(len(offsets) - 1, columns)
    if call("last", (states_NH, offsets), (len(state_BH), steps, columns), (state_BH,)):
        raise offsets_error(offsets, steps)
    return state_BH


def _last_backward(to_state_BH: Tensor, offsets: Tensor, steps: int) -> Tensor:
    rows, columns = to_state_BH.shape
    to_states_NH = to_state_BH.new_empty(steps, columns)
    call("last_backward", (to_state_BH, offsets), (rows, steps, columns), (to_states_NH,))
    return to_states_NH


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_NH: Tensor, offsets: Tensor) -> Tensor:
        ctx.steps = len(states_NH)
        ctx.save_for_backward(offsets)
        return _last(states_NH, offsets)

    @staticmethod
    def backward(ctx: Any, to_state_BH: Tensor) -> tuple[Tensor, None]:
        return once("The last state", _last_backward, to_state_BH, *ctx.saved_tensors, ctx.steps), None
