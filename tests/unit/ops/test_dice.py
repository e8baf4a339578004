"""Dice in one kernel: torch's values, gradients and running statistics, and when torch's own operations are used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dien.errors import DienError
from dien.ops import cpu, dice


def by_torch(x: Tensor, slope: Tensor, mean: Tensor, var: Tensor, **options: Any) -> Tensor:
    p = F.batch_norm(x, mean, var, **options).sigmoid()
    return x * p + (1 - p) * slope * x


def inputs_of(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    x, slope = torch.randn(rows, columns, dtype=dtype) * 3 + 2, torch.randn(columns, dtype=dtype)
    mean, var = torch.randn(columns, dtype=dtype), torch.rand(columns, dtype=dtype) + 0.5
    return [x.requires_grad_(), slope.requires_grad_(), mean, var]


def results(activation: Callable[..., Tensor], inputs: list[Tensor], training: bool) -> list[Tensor]:
    """Values, gradients, and the running statistics after them."""
    x, slope, *statistics = inputs
    running = [tensor.clone() for tensor in statistics]
    y = activation(x, slope, *running, training=training, momentum=0.1, eps=1e-8)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, slope], weights), *running]


def used_kernel(y: Tensor) -> bool:
    return y.grad_fn is not None and y.grad_fn.name() == "_DiceBackward"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 1), (3, 7), (31, 16), (33, 40), (128, 200), (1000, 33)])
def test_equals_torch(shape: tuple[int, int], dtype: torch.dtype, training: bool, assert_close) -> None:
    inputs = inputs_of(*shape, dtype)
    assert used_kernel(dice(*inputs, training=training, momentum=0.1, eps=1e-8))
    assert_close(results(dice, inputs, training), results(by_torch, inputs, training))
    with torch.no_grad():
        options = {"training": training, "momentum": 0.1, "eps": 1e-8}
        theirs = by_torch(*(tensor.clone() for tensor in inputs), **options)
        assert_close([dice(*(tensor.clone() for tensor in inputs), **options)], [theirs])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training: bool) -> None:
    x, slope, mean, var = inputs_of(7, 5, torch.float64)

    def run(x: Tensor, slope: Tensor) -> Tensor:
        return dice(x, slope, mean.clone(), var.clone(), training=training, momentum=0.1, eps=1e-8)

    assert torch.autograd.gradcheck(run, [x, slope])


def test_a_large_mean_leaves_the_spread_exact() -> None:
    """The squares are summed around the mean: a variance from sums of squares would have no digit left."""
    x, slope, mean, var = inputs_of(4000, 3)
    x = x.detach() + 5000
    dice(x, slope, mean, var, training=True, momentum=1.0, eps=1e-8)
    torch.testing.assert_close(var.double(), x.double().var(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_part_of_the_rows_has_the_same_values_in_evaluation(threads: int) -> None:
    inputs = inputs_of(1200, 70)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = dice(*inputs, training=False, momentum=0.1, eps=1e-8)
        part = dice(inputs[0][13:20], *inputs[1:], training=False, momentum=0.1, eps=1e-8)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(part, whole[13:20])


def test_refuses_second_derivatives() -> None:
    inputs = inputs_of(9, 4)
    y = dice(*inputs, training=True, momentum=0.1, eps=1e-8)
    (gradient,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()


def test_a_kernel_without_memory_says_so() -> None:
    columns = 1 << 48
    running = torch.zeros(1)
    with pytest.raises(MemoryError, match=f"dice .*{columns}"):
        cpu.call("dice", (None,) * 2, (0, columns, 1), (*(None,) * 4, running, running), numbers=(0.1, 1e-8))


def test_when_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast, compiled programs, the forced reference, statistics that are a part of something."""
    inputs = inputs_of(20, 6)
    options = {"training": True, "momentum": 0.1, "eps": 1e-8}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not used_kernel(dice(*inputs, **options))
    x, slope, *running = inputs
    assert not used_kernel(dice(x, slope, *(torch.stack([t, t], 1)[:, 0] for t in running), **options))
    graphs = []
    torch.compile(dice, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)(
        *inputs, **options
    )
    assert "sigmoid" in str(graphs[0].graph)
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert not used_kernel(dice(*inputs, **options))


def test_wrong_inputs_are_torch_errors() -> None:
    options = {"training": True, "momentum": 0.1, "eps": 1e-8}
    with pytest.raises(ValueError, match="more than 1 value"):
        dice(*inputs_of(1, 3), **options)
    x, slope, mean, var = inputs_of(5, 3)
    with pytest.raises(RuntimeError, match="size"):
        dice(x, slope[:2], mean, var, **options)
