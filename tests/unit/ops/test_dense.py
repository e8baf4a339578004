"""The linear layer of long lists: torch's values and gradients, and when torch's own layer is used instead."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dien.errors import DienError
from dien.ops import Linear, dense, linear


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the kernel for short lists too."""
    monkeypatch.setattr(dense, "FEWEST", 0)


def used_kernel(y: Tensor) -> bool:
    """Whether the kernel is among the functions that made `y`."""
    seen, node = [], y.grad_fn
    while node is not None:
        seen.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return "_LinearBackward" in seen


def results(layer: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    y = layer(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("steps", "inputs", "outputs"),
    [(0, 3, 2), (1, 1, 1), (5, 3, 2), (6, 16, 16), (97, 36, 108), (1000, 17, 33), (385, 72, 80), (200, 50, 1)],
)
def test_equals_torch(steps: int, inputs: int, outputs: int, dtype: torch.dtype, always, assert_close) -> None:
    leaves = [torch.randn(shape, dtype=dtype) for shape in ((steps, inputs), (outputs, inputs), (outputs,))]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert used_kernel(linear(*leaves))
    assert_close(results(linear, *leaves), results(F.linear, *leaves))
    assert_close(results(linear, *leaves[:2]), results(F.linear, *leaves[:2]))  # no bias
    with torch.no_grad():
        assert_close([linear(*leaves)], [F.linear(*leaves)])


def test_leading_axes_and_strides(always, assert_close) -> None:
    x = torch.randn(4, 5, 7).transpose(0, 1).requires_grad_()
    weight = torch.randn(7, 3).T.requires_grad_()
    assert_close(results(linear, x, weight), results(F.linear, x, weight))
    assert linear(x, weight).shape == (5, 4, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_repeats_exactly_with_any_number_of_threads(threads: int, always, assert_close) -> None:
    leaves = [torch.randn(shape).requires_grad_() for shape in ((3001, 20), (30, 20), (30,))]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, again = results(linear, *leaves), results(linear, *leaves)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert_close(first, results(F.linear, *leaves))


def test_an_input_without_gradient_gets_none(always) -> None:
    x, layer = torch.randn(50, 4), Linear(4, 3)
    layer(x).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(3, 4))
    assert layer.bias.grad.tolist() == [50.0] * 3


def test_refuses_second_derivatives(always) -> None:
    leaves = [torch.randn(shape).requires_grad_() for shape in ((9, 4), (3, 4), (3,))]
    (gradient,) = torch.autograd.grad(linear(*leaves).sum(), leaves[0], create_graph=True)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()


def test_when_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists, large weights, half precision, autocast, compiled programs, the forced reference."""
    long, layer = torch.randn(20_000, 32), Linear(32, 16)
    assert used_kernel(layer(long))
    assert not used_kernel(layer(long[:10]))
    assert not used_kernel(Linear(1024, 512)(torch.randn(64, 1024)))
    assert not used_kernel(Linear(32, 16, dtype=torch.bfloat16)(long.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(long).dtype == torch.bfloat16
    graphs = []
    torch.compile(layer, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)(long)
    assert "dien" not in str(graphs[0].graph)
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert not used_kernel(layer(long))


def test_wrong_shapes_are_torch_errors() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        linear(torch.randn(20_000, 31), torch.randn(16, 32))
    with pytest.raises(RuntimeError, match="size"):  # the kernel would read beyond the bias
        linear(torch.randn(20_000, 32), torch.randn(16, 32), torch.randn(15))


def test_is_a_torch_layer() -> None:
    ours, theirs = Linear(5, 3), torch.nn.Linear(5, 3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(ours(x), theirs(x))
