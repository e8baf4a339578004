"""A recurrent layer in one function: the projection and the scan, and `nn.GRU` where it is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dien.errors import DienError
from dien.ops import RULES, gated_scan, linear, recurrence
from dien.ops.dense import LARGEST

LENGTHS = [3, 0, 1, 30, 7]


def leaves_of(
    inputs: int, hidden: int, rule: str, lengths: list[int] = LENGTHS, dtype: torch.dtype = torch.float32
) -> list[Tensor | None]:
    """Input, attention and the four weights."""
    steps = sum(lengths)
    shapes = ((3 * hidden, inputs), (3 * hidden,), (3 * hidden, hidden), (3 * hidden,))
    attention = None if rule == "gru" else torch.rand(steps, dtype=dtype, requires_grad=True)
    weights = [(torch.randn(shape, dtype=dtype) / 3).requires_grad_() for shape in shapes]
    return [torch.randn(steps, inputs, dtype=dtype, requires_grad=True), attention, *weights]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def in_two_steps(x: Tensor, attention: Tensor | None, offsets: Tensor, *weights: Tensor, rule: str) -> Tensor:
    return gated_scan(linear(x, *weights[:2]), attention, offsets, *weights[2:], rule=rule)


def results(
    layer: Callable[..., Tensor], leaves: list[Tensor | None], rule: str, lengths: list[int] = LENGTHS
) -> list[Tensor]:
    x, attention, *weights = leaves
    states = layer(x, attention, offsets_of(lengths), *weights, rule=rule)
    scale = torch.randn(states.shape, generator=torch.Generator().manual_seed(5), dtype=states.dtype)
    return [states.detach(), *torch.autograd.grad(states, [leaf for leaf in leaves if leaf is not None], scale)]


def is_one_function(leaves: list[Tensor | None], rule: str) -> bool:
    x, attention, *weights = leaves
    states = recurrence(x, attention, offsets_of(LENGTHS), *weights, rule=rule)
    return states.grad_fn is not None and states.grad_fn.name() == "_RecurrenceBackward"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [0, 0], []])
@pytest.mark.parametrize("rule", RULES)
def test_equals_projection_and_scan(rule: str, lengths: list[int], dtype: torch.dtype, assert_close) -> None:
    leaves = leaves_of(5, 9, rule, lengths, dtype)
    assert_close(results(recurrence, leaves, rule, lengths), results(in_two_steps, leaves, rule, lengths))
    assert is_one_function(leaves_of(5, 9, rule), rule)


def test_equals_torchs_gru(assert_close) -> None:
    gru = nn.GRU(5, 9, batch_first=True)
    weights = [gru.weight_ih_l0, gru.bias_ih_l0, gru.weight_hh_l0, gru.bias_hh_l0]
    x = torch.randn(12, 5, requires_grad=True)
    states = recurrence(x, None, offsets_of([4, 8]), *weights, rule="gru")
    expected = torch.cat([gru(x[:4])[0], gru(x[4:])[0]])
    scale = torch.randn(12, 9)
    ours, theirs = (torch.autograd.grad(y, [x, *weights], scale) for y in (states, expected))
    assert_close([states, *ours], [expected, *theirs])


@pytest.mark.parametrize("frozen", [0, 1, 2, 5])
def test_inputs_that_need_no_gradient(frozen: int, assert_close) -> None:
    leaves = leaves_of(4, 6, "augru")
    x, attention, *weights = [
        leaf.detach() if index == frozen else leaf for index, leaf in enumerate(leaves) if leaf is not None
    ]
    states = recurrence(x, attention, offsets_of(LENGTHS), *weights, rule="augru")
    kept = [leaf for index, leaf in enumerate(leaves) if index != frozen and leaf is not None]
    expected = results(in_two_steps, leaves, "augru")[1:]
    scale = torch.randn(states.shape, generator=torch.Generator().manual_seed(5))
    found = torch.autograd.grad(states, kept, scale)
    assert_close(list(found), [gradient for index, gradient in enumerate(expected) if index != frozen])


def test_no_gradient_is_made_up(drop) -> None:
    """For states that nobody asks about."""
    leaves = leaves_of(4, 6, "gru")
    x, _, *weights = leaves
    states = recurrence(x, None, offsets_of(LENGTHS), *weights, rule="gru")
    assert torch.autograd.grad(drop(states).sum(), [x, *weights], allow_unused=True) == (None,) * 5


def test_refuses_second_derivatives() -> None:
    x, _, *weights = leaves_of(4, 6, "gru")
    states = recurrence(x, None, offsets_of(LENGTHS), *weights, rule="gru")
    (gradient,) = torch.autograd.grad(states.square().sum(), x, create_graph=True)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()


def test_when_it_is_two_functions(monkeypatch: pytest.MonkeyPatch, assert_close) -> None:
    """Weights for torch's own products, autocast, the forced reference, and nothing to differentiate."""
    wide = leaves_of(LARGEST // 30 + 1, 10, "gru")
    assert not is_one_function(wide, "gru")
    leaves = leaves_of(4, 6, "augru")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_one_function(leaves, "augru")
    with torch.no_grad():
        x, attention, *weights = leaves
        states = recurrence(x, attention, offsets_of(LENGTHS), *weights, rule="augru")
    assert_close([states], [results(recurrence, leaves, "augru")[0]])
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert not is_one_function(leaves, "augru")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"offsets": torch.tensor([0, 3])}, ValueError, "offsets must rise"),
        ({"attention": torch.rand(5)}, ValueError, "attention_N must be"),
        ({"attention": None}, ValueError, "needs an attention_N"),
        ({"weight_hh": torch.randn(18, 5)}, ValueError, "projected_N3H must be"),
        ({"bias_hh": torch.randn(17)}, ValueError, "bias_hh must be"),
        ({"weight_ih": torch.randn(18, 3)}, RuntimeError, "shapes"),
        ({"bias_ih": torch.randn(17)}, RuntimeError, "size"),
    ],
)
def test_wrong_inputs_are_named(change: dict, error: type[Exception], message: str) -> None:
    names = ("x", "attention", "weight_ih", "bias_ih", "weight_hh", "bias_hh")
    given = {"offsets": offsets_of(LENGTHS), **dict(zip(names, leaves_of(4, 6, "augru"), strict=True)), **change}
    x, attention, offsets = (given.pop(name) for name in ("x", "attention", "offsets"))
    with pytest.raises(error, match=message):
        recurrence(x, attention, offsets, *(given[name] for name in names[2:]), rule="augru")
