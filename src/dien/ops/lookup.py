"""Rows of an embedding table, with a gradient that takes a quarter of torch's time on the CPU.

torch sums the gradient of `F.embedding` with one call of a vector routine for every place that was looked up. At a
width of 18 numbers the calls take most of the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` as `F.embedding`; `table [R, E]`, `index` whole of any shape `[...]`, result `[..., E]`.

    The kernel sums the gradient for float32 and float64 and an int64 index on the CPU where the scan's runs (see
    `engine_for`); everything else, and programs that are compiled or exported, use torch's own.
    """
    if not (torch.is_grad_enabled() and table.requires_grad and index.dtype == torch.int64 and takes(table)):
        return F.embedding(index, table)
    found: Tensor = _Lookup.apply(table, index)
    return found


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.rows = len(table)
        ctx.save_for_backward(index)
        return F.embedding(index, table)

    @staticmethod
    def backward(ctx: Any, to_places: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may follow
            return torch.ops.aten.embedding_dense_backward(to_places, index, ctx.rows, -1, False), None
        to_table = to_places.new_empty(ctx.rows, to_places.shape[-1])
        call("lookup_backward", (to_places, index), (index.numel(), *to_table.shape), (to_table,))
        return to_table, None
