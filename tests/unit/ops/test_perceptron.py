"""Two layers of sigmoids in one walk: torch's values and gradients, and when torch's own layers are used instead."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dien.errors import DienError
from dien.ops import cpu, perceptron


def by_torch(x: Tensor, shared: Tensor, *layers: Tensor, row: Tensor) -> Tensor:
    first, first_bias, second, second_bias, output, output_bias = layers
    hidden = F.linear(torch.cat([shared[row], x], 1), first, first_bias).sigmoid()
    return F.linear(F.linear(hidden, second, second_bias).sigmoid(), output, output_bias)


def ours(x: Tensor, shared: Tensor, *layers: Tensor, row: Tensor) -> Tensor:
    return perceptron(x, shared, row, *layers)


def leaves_of(
    steps: int, own: int, first: int, second: int, rows: int = 5, common: int = 4, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    inputs = ((steps, own), (rows, common))
    layers = ((first, common + own), (first,), (second, first), (second,), (1, second), (1,))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in (*inputs, *layers)]


def rows_of(leaves: list[Tensor]) -> Tensor:
    """Of random lengths: some rows have no step, others many."""
    return torch.randint(0, len(leaves[1]), (len(leaves[0]),)).sort().values


def results(layers: Callable[..., Tensor], leaves: list[Tensor], row: Tensor) -> list[Tensor]:
    y = layers(*leaves, row=row)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


def used_kernel(y: Tensor) -> bool:
    return y.grad_fn is not None and y.grad_fn.name() == "_PerceptronBackward"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("steps", "own", "first", "second", "rows", "common"),
    [
        *(
            (0, 3, 4, 2, 3, 2),
            (1, 1, 1, 1, 1, 1),
            (5, 3, 3, 2, 9, 1),
            (6, 16, 16, 16, 2, 16),
            (97, 36, 100, 50, 60, 36),
        ),
        *((1000, 17, 33, 18, 1, 40), (1000, 72, 80, 40, 400, 36), (700, 5, 3, 2, 3000, 3), (300, 0, 5, 4, 20, 6)),
    ],
)
def test_equals_torch(
    steps: int, own: int, first: int, second: int, rows: int, common: int, dtype: torch.dtype, assert_close
) -> None:
    leaves = leaves_of(steps, own, first, second, rows, common, dtype)
    row = rows_of(leaves)
    assert used_kernel(ours(*leaves, row=row))
    assert_close(results(ours, leaves, row), results(by_torch, leaves, row))
    with torch.no_grad():
        assert_close([ours(*leaves, row=row)], [by_torch(*leaves, row=row)])


@pytest.mark.parametrize("rows", [5, 40])
def test_the_layers_of_torch_are_the_same(rows: int, monkeypatch: pytest.MonkeyPatch, assert_close) -> None:
    monkeypatch.setenv("DIEN_SCAN", "reference")
    leaves = leaves_of(50, 6, 5, 3, rows)
    row = rows_of(leaves)
    assert_close(results(ours, leaves, row), results(by_torch, leaves, row))


def test_gradients_are_those_of_finite_differences() -> None:
    leaves = leaves_of(7, 4, 5, 3, dtype=torch.float64)
    row = rows_of(leaves)
    assert torch.autograd.gradcheck(lambda *leaves: ours(*leaves, row=row), leaves)


def test_extreme_inputs_stay_finite(assert_close) -> None:
    leaves = leaves_of(12, 3, 4, 3)
    leaves[3] = torch.tensor([-1e4, -90.0, 90.0, 1e4], requires_grad=True)
    row = rows_of(leaves)
    assert_close(results(ours, leaves, row), results(by_torch, leaves, row))


@pytest.mark.parametrize("rows", [1, 2, 3001])
@pytest.mark.parametrize("threads", [1, 3])
def test_repeats_exactly_with_any_number_of_threads(threads: int, rows: int, assert_close) -> None:
    """Also where all steps are of a row or two, which threads do not share."""
    leaves = leaves_of(3001, 9, 30, 20, rows)
    row = rows_of(leaves)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, again = results(ours, leaves, row), results(ours, leaves, row)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert_close(first, results(by_torch, leaves, row))


def test_a_part_of_the_steps_has_the_same_scores() -> None:
    leaves = leaves_of(50, 7, 10, 8)
    row = rows_of(leaves)
    whole = ours(*leaves, row=row)
    assert torch.equal(ours(leaves[0][13:20], *leaves[1:], row=row[13:20]), whole[13:20])


def test_inputs_that_are_parts_of_larger_ones(assert_close) -> None:
    leaves = leaves_of(40, 6, 10, 8)
    row = rows_of(leaves)
    leaves[1] = torch.randn(5, 9)[:, 3:7].requires_grad_()
    leaves[2] = torch.randn(10, 10).T.requires_grad_()
    assert_close(results(ours, leaves, row), results(by_torch, leaves, row))


@pytest.mark.parametrize("row", [[0, 2, 1], [0, 1, 5], [-1, 0, 1], [3, 3, 0]])
def test_rows_that_fall_or_do_not_exist_are_refused(row: list[int]) -> None:
    with pytest.raises(ValueError, match="row_N must not fall nor leave the 5 rows"):
        ours(*leaves_of(3, 2, 4, 3), row=torch.tensor(row))


def test_refuses_second_derivatives() -> None:
    leaves = leaves_of(9, 2, 4, 3)
    (gradient,) = torch.autograd.grad(ours(*leaves, row=rows_of(leaves)).sum(), leaves[0], create_graph=True)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()


def test_a_kernel_without_memory_says_so() -> None:
    """Of 2^48 weights, which no machine has; a null pointer would end the process."""
    units = 1 << 24
    with pytest.raises(MemoryError, match=f"perceptron .*{units}"):
        cpu.call("perceptron", (None,) * 9, (0, units, 0, units, units, units), (None, None, torch.empty(0)))


def test_when_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, autocast, compiled programs, the forced reference."""
    leaves = leaves_of(20, 5, 6, 4)
    row = rows_of(leaves)
    assert not used_kernel(ours(*(leaf.detach().bfloat16().requires_grad_() for leaf in leaves), row=row))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(*leaves, row=row).dtype == torch.bfloat16
    graphs = []
    compiled = torch.compile(ours, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    compiled(*leaves, row=row)
    assert "sigmoid" in str(graphs[0].graph)
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert not used_kernel(ours(*leaves, row=row))


def test_wrong_shapes_are_torch_errors() -> None:
    x, *others = leaves_of(9, 4, 5, 3)
    with pytest.raises(RuntimeError, match="split_sizes"):
        ours(x[:, :3], *others, row=torch.zeros(9, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="size of tensor"):
        ours(x, *others, row=torch.zeros(8, dtype=torch.int64))
