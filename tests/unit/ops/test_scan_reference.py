"""The definition itself: hand-computed steps, nn.GRU, exact derivatives, and what a = 0 and a = 1 mean."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from dien.ops import RULES, gated_scan, last_state, reference
from dien.ops.layout import COEFFICIENTS

# One step with H = 1: W = (0.5, -0.25, 1), b = (0.1, -0.2, 0.3), x = (0.2, 0.4, -0.6), h = 0.5, a = 0.3.
# r = s(0.55) = 0.634136, u = 1 - s(0.075) = 0.481259, n = tanh(-0.6 + 0.8 r) = -0.092427.
HAND = {"gru": 0.2148893136, "agru": 0.3222719071, "augru": 0.4144667941, "augru_code": 0.1226944266}


@pytest.mark.parametrize("rule", RULES)
def test_one_step_by_hand(rule: str) -> None:
    double = {"dtype": torch.float64}
    states = reference.gated_scan(
        torch.tensor([[0.2, 0.4, -0.6]], **double),
        None if rule == "gru" else torch.tensor([0.3], **double),
        torch.tensor([0, 1]),
        torch.tensor([[0.5], [-0.25], [1.0]], **double),
        torch.tensor([0.1, -0.2, 0.3], **double),
        rule=rule,
        initial_BH=torch.tensor([[0.5]], **double),
    )
    assert states.item() == pytest.approx(HAND[rule], abs=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_coefficients_are_the_rule(rule: str) -> None:
    u, a = torch.rand(2, 50, dtype=torch.float64)
    p, q, s = COEFFICIENTS[rule]
    torch.testing.assert_close((p + q * a) * u + s * a, reference.WRITE[rule](u, a))


@pytest.mark.parametrize("scan", [reference.gated_scan, gated_scan], ids=["reference", "engine"])
def test_rule_gru_is_torch_gru(scan) -> None:
    lengths, hidden = [7, 1, 4, 12], 36
    gru = nn.GRU(20, hidden)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(length, 20, generator=generator) for length in lengths]
    weights = [torch.randn(length, hidden, generator=generator) for length in lengths]

    packed, _ = gru(pack_sequence(rows, enforce_sorted=False))
    states = nn.utils.rnn.unpack_sequence(packed)
    sum((s * w).sum() for s, w in zip(states, weights, strict=True)).backward()
    expected = [torch.cat(states).detach(), *(p.grad for p in gru.parameters())]

    gru.zero_grad()
    projected = nn.functional.linear(torch.cat(rows), gru.weight_ih_l0, gru.bias_ih_l0)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    ours = scan(projected, None, offsets, gru.weight_hh_l0, gru.bias_hh_l0, rule="gru")
    (ours * torch.cat(weights)).sum().backward()
    for actual, wanted in zip([ours.detach(), *(p.grad for p in gru.parameters())], expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-6 * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("rule", RULES)
def test_first_and_second_derivatives(rule: str, make_problem) -> None:
    problem = make_problem([2, 0, 3], 2, rule, dtype=torch.float64)

    def scan(*leaves: torch.Tensor) -> torch.Tensor:
        projected, attention, weight, bias, initial = leaves if rule != "gru" else (leaves[0], None, *leaves[1:])
        return reference.gated_scan(projected, attention, problem.offsets, weight, bias, rule=rule, initial_BH=initial)

    assert torch.autograd.gradcheck(scan, problem.leaves)
    assert torch.autograd.gradgradcheck(scan, problem.leaves)


@pytest.mark.parametrize("scan", [reference.gated_scan, gated_scan], ids=["reference", "engine"])
def test_no_attention_freezes_the_paper_and_full_attention_is_a_gru(scan, make_problem) -> None:
    problem = make_problem([3, 0, 5], 4, "gru", initial=True)

    def states(rule: str, attention: float | None) -> torch.Tensor:
        a = None if attention is None else torch.full((8,), attention)
        return scan(
            *(problem.projected, a, problem.offsets, problem.weight, problem.bias),
            rule=rule,
            initial_BH=problem.initial,
        )

    frozen = problem.initial.repeat_interleave(torch.tensor([3, 0, 5]), dim=0)
    assert torch.equal(states("augru", 0.0), frozen)
    assert torch.equal(states("agru", 0.0), frozen)
    plain = states("gru", None)
    torch.testing.assert_close(states("augru_code", 0.0), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(states("augru", 1.0), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(states("augru_code", 1.0), states("agru", 1.0), rtol=0, atol=1e-6)


def test_last_state() -> None:
    states = torch.arange(10.0).reshape(5, 2).requires_grad_()
    offsets = torch.tensor([0, 3, 3, 5])
    initial = torch.tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])
    assert last_state(states, offsets).tolist() == [[4, 5], [0, 0], [8, 9]]
    assert last_state(states, offsets, initial).tolist() == [[4, 5], [-3, -4], [8, 9]]
    last_state(states, offsets).sum().backward()
    assert states.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0], [1, 1]]
    assert last_state(states[:0], torch.tensor([0, 0, 0])).tolist() == [[0, 0], [0, 0]]
    assert last_state(states[:0], torch.tensor([0])).shape == (0, 2)
