"""The lookup of embeddings: torch's values and gradients, to the last bit."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dien.ops import lookup


def gradient(found: Tensor, table: Tensor) -> Tensor:
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=found.dtype)
    return torch.autograd.grad(found, table, weights)[0]


def used_kernel(found: Tensor) -> bool:
    return found.grad_fn is not None and found.grad_fn.name() == "_LookupBackward"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (1,), (50,), (700, 3), (4, 5, 6)])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_torch_exactly(shape: tuple[int, ...], dtype: torch.dtype, threads: int) -> None:
    table = torch.randn(900, 18, dtype=dtype, requires_grad=True)
    index = torch.randint(0, 900, shape)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ours, theirs = lookup(table, index), F.embedding(index, table)
        assert used_kernel(ours)
        assert torch.equal(ours, theirs)
        assert torch.equal(gradient(ours, table), gradient(theirs, table))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (1,), (50,), (70, 3)])
@pytest.mark.parametrize("columns", [0, 1, 3])
def test_ids_of_rows_are_looked_up_side_by_side(shape: tuple[int, ...], columns: int, dtype: torch.dtype) -> None:
    table = torch.randn(90, 18, dtype=dtype, requires_grad=True)
    ids, rows = torch.randint(0, 90, (40, columns)), torch.randint(0, 40, shape)
    ours, theirs = lookup(table, rows, ids), F.embedding(ids[rows], table).flatten(-2)
    assert used_kernel(ours)
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient(ours, table), gradient(theirs, table))
    with torch.no_grad():
        assert torch.equal(lookup(table, rows, ids), theirs)


def test_rows_and_ids_that_do_not_exist() -> None:
    table, ids = torch.randn(5, 3, requires_grad=True), torch.tensor([[0, 4], [1, 5], [-1, 0]])
    for row in (3, -1, 1, 2):
        with pytest.raises(IndexError, match="leaves the 3 rows of its index or the 5 rows of its table"):
            lookup(table, torch.tensor([0, row]), ids)


def test_ids_of_another_shape_are_left_to_torch() -> None:
    table, ids, rows = torch.randn(9, 3, requires_grad=True), torch.randint(0, 9, (5, 2, 4)), torch.tensor([0, 4])
    assert torch.equal(lookup(table, rows, ids), F.embedding(ids[rows], table).flatten(-2))


def test_strided_index_and_gradient() -> None:
    table = torch.randn(20, 3, requires_grad=True)
    index = torch.randint(0, 20, (6, 4)).T
    ours, theirs = lookup(table, index).transpose(0, 1), F.embedding(index, table).transpose(0, 1)
    assert torch.equal(gradient(ours, table), gradient(theirs, table))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_an_index_of_either_width(dtype: torch.dtype) -> None:
    table, index = torch.randn(20, 3, requires_grad=True), torch.tensor([3, 0, 19, 3], dtype=dtype)
    ours, theirs = lookup(table, index), F.embedding(index, table)
    assert used_kernel(ours) == (dtype == torch.int64)
    assert torch.equal(gradient(ours, table), gradient(theirs, table))


@pytest.mark.parametrize("ids", [None, torch.tensor([[1, 1], [0, 3], [2, 0], [0, 0], [4, 1]])])
def test_differentiable_twice(ids: Tensor | None) -> None:
    table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 4, 4])
    assert torch.autograd.gradgradcheck(lambda table: lookup(table, rows, ids).sin(), table)


def test_an_id_beyond_the_table_is_refused() -> None:
    with pytest.raises(IndexError, match="leaves the"):
        lookup(torch.randn(5, 3, requires_grad=True), torch.tensor([5]))


def test_when_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    table, index = torch.randn(20, 3, requires_grad=True), torch.randint(0, 20, (7,))
    assert lookup(table.detach(), index).grad_fn is None
    assert not used_kernel(lookup(table.detach().bfloat16().requires_grad_(), index))
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert not used_kernel(lookup(table, index))
