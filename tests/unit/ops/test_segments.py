"""The flat list of steps: its layout, softmax and last states against plain loops, with kernels and without."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dien.errors import DienError
from dien.ops import flat_steps, last_state, softmax

LENGTHS = [[], [0], [1], [0, 0, 0], [3, 0, 1, 5], [0, 4, 0], [100, 1, 0, 7, 20]]


@pytest.fixture(params=["kernel", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setenv("DIEN_SCAN", "reference")
    return request.param


def parts(flat: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    return iter(flat.split(lengths)) if lengths else iter(())


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_where_steps_lie(engine: str, lengths: list[int], extra: int) -> None:
    width = max(lengths, default=0) + extra
    offsets, row_N, cell_N = flat_steps(torch.tensor(lengths, dtype=torch.int64), width)
    steps = [(b, t) for b, length in enumerate(lengths) for t in range(length)]
    assert offsets.tolist() == [sum(lengths[:b]) for b in range(len(lengths) + 1)]
    assert row_N.tolist() == [b for b, _ in steps]
    assert cell_N.tolist() == [b * width + t for b, t in steps]
    assert {x.dtype for x in (offsets, row_N, cell_N)} == {torch.int64}


@pytest.mark.parametrize("lengths", [[1, 5], [-1, 2], [2, -2], [-3]])
def test_lengths_out_of_range_are_named(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"lengths must lie within 0 and the width 4, got \["):
        flat_steps(torch.tensor(lengths), 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_softmax_is_that_of_each_row(engine: str, lengths: list[int], dtype: torch.dtype, assert_close) -> None:
    width = max(lengths, default=0)
    offsets, _, cell_N = flat_steps(torch.tensor(lengths, dtype=torch.int64), width)
    score_N = (torch.randn(sum(lengths), dtype=dtype) * 5).requires_grad_()
    weights = torch.randn(sum(lengths), dtype=dtype)
    share_N = softmax(score_N, offsets, cell_N, width)
    expected = torch.cat([score_N[:0], *(part.softmax(0) for part in parts(score_N, lengths))])
    assert_close([share_N], [expected])
    if lengths:
        assert_close(*([torch.autograd.grad((y * weights).sum(), score_N)[0]] for y in (share_N, expected)))
    with torch.no_grad():
        assert torch.equal(softmax(score_N, offsets, cell_N, width), share_N)


def test_softmax_of_large_and_equal_scores() -> None:
    offsets, _, cell_N = flat_steps(torch.tensor([3, 2, 1]), 3)
    share_N = softmax(torch.tensor([1e4, 1e4, -1e4, 0.0, -200.0, -3e38]), offsets, cell_N, 3)
    assert torch.equal(share_N, torch.tensor([0.5, 0.5, 0.0, 1.0, 0.0, 1.0]))
    not_a_number = softmax(torch.tensor([1.0, torch.nan, 2.0, 0.0, 0.0, 0.0]), offsets, cell_N, 3)
    assert not_a_number.isnan().tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_last_states(engine: str, lengths: list[int], dtype: torch.dtype) -> None:
    offsets, *_ = flat_steps(torch.tensor(lengths, dtype=torch.int64), max(lengths, default=0))
    states_NH = torch.randn(sum(lengths), 5, dtype=dtype, requires_grad=True)
    nothing = states_NH.new_zeros(5)
    expected = [part[-1] if len(part) else nothing for part in parts(states_NH, lengths)]
    last_BH = last_state(states_NH, offsets)
    assert torch.equal(last_BH, torch.stack(expected) if expected else nothing.new_zeros(0, 5))
    weights = torch.randn_like(last_BH)
    (gradient,) = torch.autograd.grad((last_BH * weights).sum(), states_NH)
    for part, weight in zip(parts(gradient, lengths), weights, strict=True):
        assert torch.equal(part[-1:], weight.expand(len(part[-1:]), 5))
        assert not part[:-1].any()


def test_last_states_after_states_from_before() -> None:
    initial_BH, states_NH = torch.randn(3, 2), torch.randn(3, 2)
    last_BH = last_state(states_NH, torch.tensor([0, 0, 1, 3]), initial_BH)
    assert torch.equal(last_BH, torch.stack([initial_BH[0], states_NH[0], states_NH[2]]))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), max_size=20))
def test_any_batch(lengths: list[int]) -> None:
    """Gradients of the kernels are those of finite differences, shares sum to one."""
    width = max(lengths, default=0)
    offsets, _, cell_N = flat_steps(torch.tensor(lengths, dtype=torch.int64), width)
    score_N = torch.randn(sum(lengths), dtype=torch.float64, requires_grad=True)
    share_N = softmax(score_N, offsets, cell_N, width).detach()
    sums = [float(part.sum()) for part in parts(share_N, lengths)]
    assert sums == pytest.approx([float(length > 0) for length in lengths])
    if sum(lengths):
        states_NH = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: softmax(x, offsets, cell_N, width), score_N, fast_mode=True)
        assert torch.autograd.gradcheck(lambda x: last_state(x, offsets), states_NH, fast_mode=True)


@pytest.mark.parametrize("offsets", [[0, 2, 5], [1, 2, 4], [0, 3, 2, 4], [0, -1, 4]])
def test_offsets_of_another_list_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match=r"offsets must rise from 0 to the number of steps \(4\)"):
        softmax(torch.randn(4), torch.tensor(offsets), torch.arange(4), 4)
    with pytest.raises(ValueError, match=r"offsets must rise from 0 to the number of steps \(4\)"):
        last_state(torch.randn(4, 2), torch.tensor(offsets))


def test_lists_and_offsets_of_another_kind_are_left_to_torch() -> None:
    """The kernels would read what is not there."""
    offsets, cell_N = torch.tensor([0, 3]), torch.arange(3)
    with pytest.raises(IndexError, match="dimensionality"):
        softmax(torch.randn(3, 2), offsets, cell_N, 3)
    assert last_state(torch.randn(3, 2), offsets.to("meta")).shape == (1, 2)
    torch.testing.assert_close(softmax(torch.zeros(3), offsets.to("meta"), cell_N, 3), torch.full((3,), 1 / 3))
    assert softmax(torch.randn(0), cell_N[:0], cell_N[:0], 3).shape == (0,)


def test_refuse_second_derivatives() -> None:
    score_N, offsets = torch.randn(4, requires_grad=True), torch.tensor([0, 4])
    (gradient,) = torch.autograd.grad(
        softmax(score_N, offsets, torch.arange(4), 4).square().sum(), score_N, create_graph=True
    )
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()
