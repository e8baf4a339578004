"""Rows of an embedding table, with a gradient that takes a quarter of torch's time on the CPU.

torch sums the gradient of `F.embedding` with one call of a vector routine for every place that was looked up. At a
width of 18 numbers the calls take most of the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops.cpu import call, takes
from dien.ops.once import differentiable


def lookup(table_RE: Tensor, rows: Tensor, ids_IC: Tensor | None = None) -> Tensor:
    """`F.embedding(rows, table)`, or with `ids` the C rows `table[ids[row]]` side by side, `[..., C * E]`.

    The kernel runs for float32 and float64 on the CPU where the scan's does (see `engine_for`); everything else, and
    programs that are compiled or exported, use torch's own.

    Args:
        table_RE: embeddings.
        rows: int64 of any shape `[...]`.
        ids_IC: int64, of each row the rows of the table.

    Raises:
        IndexError: for a row or an id that does not exist.
    """
    ids = () if ids_IC is None else (ids_IC,)
    fit = all(x.dim() == 2 for x in (table_RE, *ids)) and all(x.dtype == torch.int64 and x.is_cpu for x in (rows, *ids))
    if not fit or not takes(table_RE):
        return F.embedding(rows, table_RE) if ids_IC is None else F.embedding(ids_IC[rows], table_RE).flatten(-2)
    if differentiable(table_RE):
        found: Tensor = _Lookup.apply(table_RE, rows, ids_IC)
        return found
    return _forward(table_RE, rows, ids_IC)


def _sizes(table_RE: Tensor, rows: Tensor, ids_IC: Tensor | None) -> tuple[int, int, int, int, int]:
    """N, I, C, R, E"""
    count, width = table_RE.shape
    ids, columns = (count, 1) if ids_IC is None else ids_IC.shape
    return rows.numel(), ids, columns, count, width


def _forward(table_RE: Tensor, rows: Tensor, ids_IC: Tensor | None) -> Tensor:
    sizes = _sizes(table_RE, rows, ids_IC)
    _, _, columns, _, width = sizes
    found = table_RE.new_empty(*rows.shape, columns * width)
    if call("lookup", (table_RE, rows, ids_IC), sizes, (found,)):
        raise IndexError(f"a lookup leaves the {sizes[1]} rows of its index or the {sizes[3]} rows of its table.")
    return found


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_RE: Tensor, rows: Tensor, ids_IC: Tensor | None) -> Tensor:
        ctx.sizes = _sizes(table_RE, rows, ids_IC)
        ctx.save_for_backward(rows, ids_IC)
        return _forward(table_RE, rows, ids_IC)

    @staticmethod
    def backward(ctx: Any, to_places: Tensor) -> tuple[Tensor, None, None]:
        rows, ids_IC = ctx.saved_tensors
        *_, count, width = ctx.sizes
        if torch.is_grad_enabled():  # a second derivative may follow
            index = rows if ids_IC is None else ids_IC[rows]
            to_ids = to_places.reshape(*index.shape, width)
            return torch.ops.aten.embedding_dense_backward(to_ids, index, count, -1, False), None, None
        to_table = to_places.new_empty(count, width)
        call("lookup_backward", (to_places, rows, ids_IC), ctx.sizes, (to_table,))
        return to_table, None, None
