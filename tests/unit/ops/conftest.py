"""Scan problems: inputs of a ragged batch, and what a scan makes of them."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dien.ops import engines

# Interpreted kernels do not compile.
if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore = ["test_scan_triton.py"]

# The largest difference from the reference that is allowed, relative to the largest entry (or to 1).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@dataclass
class Problem:
    """Inputs of a scan; leaves that require grad, drawn like an initialised GRU's."""

    projected: Tensor
    attention: Tensor | None
    offsets: Tensor
    weight: Tensor
    bias: Tensor
    rule: str
    initial: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        inputs = (self.projected, self.attention, self.weight, self.bias, self.initial)
        return [x for x in inputs if x is not None]

    def states(self, scan: Callable[..., Tensor]) -> Tensor:
        return scan(
            *(self.projected, self.attention, self.offsets, self.weight, self.bias),
            rule=self.rule,
            initial_BH=self.initial,
        )

    def states_and_gradients(self, scan: Callable[..., Tensor]) -> list[Tensor]:
        states = self.states(scan)
        generator = torch.Generator().manual_seed(7)
        weights = torch.randn(states.shape, generator=generator).to(states)
        return [states.detach(), *torch.autograd.grad(states, self.leaves, weights)]


def _make_problem(
    lengths: list[int],
    hidden: int,
    rule: str,
    *,
    dtype: torch.dtype = torch.float32,
    initial: bool = True,
    device: str = "cpu",
) -> Problem:
    generator = torch.Generator().manual_seed(hidden + sum(lengths))

    def leaf(*shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return values.to(device, dtype).requires_grad_()

    steps, spread = sum(lengths), hidden**-0.5
    attention = torch.rand(steps, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
    return Problem(
        projected=leaf(steps, 3 * hidden),
        attention=None if rule == "gru" else attention,
        offsets=torch.tensor([0, *lengths]).cumsum(0).to(device),
        weight=leaf(3 * hidden, hidden, scale=spread),
        bias=leaf(3 * hidden, scale=spread),
        rule=rule,
        initial=leaf(len(lengths), hidden) if initial else None,
    )


def _assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float | None = None) -> None:
    """Values and gradients agree, dtypes too."""
    assert len(actual) == len(expected)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        if e.numel():
            error = (a.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1)
            assert error <= (tolerance or TOLERANCE[e.dtype]), f"result {index}: {error:.2e}"


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    return _make_problem


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    return _assert_close


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    """Each test chooses (and logs) its engine anew."""
    engines._choose.cache_clear()
    yield
    engines._choose.cache_clear()


class Drop(torch.autograd.Function):
    """The identity, whose backward knows no gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> None:
        return None


@pytest.fixture(scope="session")
def drop() -> Callable[[Tensor], Tensor]:
    return Drop.apply
