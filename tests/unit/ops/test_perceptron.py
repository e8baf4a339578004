"""Two layers of sigmoids in one walk: torch's values and gradients, and when torch's own layers are used instead."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dien.errors import DienError
from dien.ops import cpu, perceptron


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, output: Tensor, output_bias: Tensor) -> Tensor:
    return F.linear(F.linear(x.sigmoid(), weight, bias).sigmoid(), output, output_bias)


def leaves_of(steps: int, inputs: int, units: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = ((steps, inputs), (units, inputs), (units,), (1, units), (1,))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def results(layers: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    y = layers(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


def used_kernel(y: Tensor) -> bool:
    return y.grad_fn is not None and y.grad_fn.name() == "_PerceptronBackward"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("steps", "inputs", "units"), [(0, 3, 2), (1, 1, 1), (5, 3, 2), (6, 16, 16), (97, 100, 50), (1000, 17, 33)]
)
def test_equals_torch(steps: int, inputs: int, units: int, dtype: torch.dtype, assert_close) -> None:
    leaves = leaves_of(steps, inputs, units, dtype)
    assert used_kernel(perceptron(*leaves))
    assert_close(results(perceptron, leaves), results(by_torch, leaves))
    with torch.no_grad():
        assert_close([perceptron(*leaves)], [by_torch(*leaves)])


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(perceptron, leaves_of(7, 5, 3, torch.float64))


def test_extreme_inputs_stay_finite(assert_close) -> None:
    leaves = leaves_of(12, 4, 3)
    leaves[0] = torch.tensor([-1e4, -90.0, 90.0, 1e4]).expand(12, 4).contiguous().requires_grad_()
    assert_close(results(perceptron, leaves), results(by_torch, leaves))


@pytest.mark.parametrize("threads", [1, 3])
def test_repeats_exactly_with_any_number_of_threads(threads: int, assert_close) -> None:
    leaves = leaves_of(3001, 30, 20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, again = results(perceptron, leaves), results(perceptron, leaves)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert_close(first, results(by_torch, leaves))


def test_a_part_of_the_steps_has_the_same_scores() -> None:
    leaves = leaves_of(50, 10, 8)
    whole = perceptron(*leaves)
    assert torch.equal(perceptron(leaves[0][13:20], *leaves[1:]), whole[13:20])


def test_refuses_second_derivatives() -> None:
    leaves = leaves_of(9, 4, 3)
    (gradient,) = torch.autograd.grad(perceptron(*leaves).sum(), leaves[0], create_graph=True)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()


def test_a_kernel_without_memory_says_so() -> None:
    """Of 2^48 weights, which no machine has; a null pointer would end the process."""
    units = 1 << 24
    with pytest.raises(MemoryError, match=f"perceptron .*{units}"):
        cpu.call("perceptron", (None,) * 5, (0, units, units), (None, None, torch.empty(0)))


def test_when_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, autocast, compiled programs, the forced reference."""
    leaves = leaves_of(20, 6, 4)
    assert not used_kernel(perceptron(*(leaf.detach().bfloat16().requires_grad_() for leaf in leaves)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert perceptron(*leaves).dtype == torch.bfloat16
    graphs = []
    torch.compile(perceptron, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)(*leaves)
    assert "sigmoid" in str(graphs[0].graph)
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert not used_kernel(perceptron(*leaves))


def test_wrong_shapes_are_torch_errors() -> None:
    x, weight, bias, output, output_bias = leaves_of(9, 4, 3)
    with pytest.raises(RuntimeError, match="shapes"):
        perceptron(x[:, :3], weight, bias, output, output_bias)
