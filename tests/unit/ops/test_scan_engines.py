"""Every engine against the reference: values and all gradients.

The CPU kernel here; the Triton kernels where there is a GPU, and in `test_scan_triton.py`, which runs this file again
with DIEN_SCAN=triton in Triton's interpreter.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dien.ops import RULES, engine_for, engines, gated_scan, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() and not INTERPRETED else [])]
HALF = [torch.bfloat16, torch.float16]
# Sizes below, at and above a vector and a tile; in the interpreter one of each kernel (held, streamed).
HIDDEN = [3, 70] if INTERPRETED else [1, 3, 16, 17, 36, 64, 130]
# Rows longer than the steps that the CPU kernel's backward keeps (64), empty rows, more rows than a block.
LENGTHS = [3, 0, 5, 1, 0, 2] if INTERPRETED else [150, 70, 0, 1, 64, 65, 128, 2, 9, 0, 3, 3, 3, 20]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    assert engine_for(request.param) == ("triton" if INTERPRETED or request.param == "cuda" else "cpu")
    return request.param


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_float32(hidden: int, rule: str, device: str, make_problem, assert_close) -> None:
    problem = make_problem(LENGTHS, hidden, rule, device=device)
    assert_close(problem.states_and_gradients(gated_scan), problem.states_and_gradients(reference.gated_scan))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, *HALF])
def test_other_dtypes(rule: str, dtype: torch.dtype, make_problem, assert_close) -> None:
    if INTERPRETED and dtype == torch.float64:
        pytest.skip("the Triton kernels compute in float32")
    problem = make_problem(LENGTHS[2:], 36, rule, dtype=dtype)
    assert_close(problem.states_and_gradients(gated_scan), problem.states_and_gradients(reference.gated_scan))


@pytest.mark.parametrize("dtype", HALF)
def test_a_half_projection_beside_float32_weights(dtype: torch.dtype, device: str, make_problem, assert_close) -> None:
    """What autocast calls the scan with; each gradient has the dtype of its input."""
    problem = make_problem(LENGTHS[2:], 36, "augru", initial=False, device=device)
    problem.projected = problem.projected.detach().to(dtype).requires_grad_()
    ours = problem.states_and_gradients(gated_scan)
    assert [x.dtype for x in ours] == [dtype, dtype, torch.float32, torch.float32, torch.float32]
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert_close(ours, problem.states_and_gradients(reference.gated_scan), tolerance)


@pytest.mark.skipif(not INTERPRETED, reason="layouts of the Triton kernels")
@pytest.mark.parametrize(("hidden", "shared_kib", "tiles"), [(36, 99, 1), (256, 163, 4)])
def test_streamed_layouts(hidden: int, shared_kib: int, tiles: int, make_problem, assert_close, monkeypatch) -> None:
    """The default network on a GPU with little shared memory, and a large one anywhere."""
    triton = engines.kernel("triton")
    monkeypatch.setattr(triton, "shared_bytes", lambda device: shared_kib << 10)
    layout = triton.plan(hidden, torch.float32, "tf32x3", shared_kib << 10)
    assert (layout.held, layout.padded // layout.tile) == (False, tiles)
    problem = make_problem([2, 0, 1], hidden, "augru")
    assert_close(problem.states_and_gradients(gated_scan), problem.states_and_gradients(reference.gated_scan))


@pytest.mark.parametrize("rule", ["gru", "augru"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [1], [4]], ids=str)
def test_degenerate_batches(lengths: list[int], rule: str, make_problem, assert_close) -> None:
    for initial in (True, False):
        problem = make_problem(lengths, 5, rule, initial=initial)
        assert_close(problem.states_and_gradients(gated_scan), problem.states_and_gradients(reference.gated_scan))


@given(
    lengths=st.lists(st.integers(0, 12), max_size=20),
    hidden=st.integers(1, 40),
    rule=st.sampled_from(RULES),
    initial=st.booleans(),
)
@settings(max_examples=8 if INTERPRETED else 60, deadline=None)
def test_any_ragged_batch(lengths, hidden, rule, initial, make_problem, assert_close) -> None:
    problem = make_problem(lengths, hidden, rule, initial=initial)
    assert_close(problem.states_and_gradients(gated_scan), problem.states_and_gradients(reference.gated_scan))


def test_a_row_does_not_depend_on_the_others(make_problem) -> None:
    problem = make_problem([4, 9, 0, 2, 7, 1, 3], 36, "augru")
    together = problem.states(gated_scan)
    for row in range(7):
        first, end = problem.offsets[row : row + 2].tolist()
        alone = gated_scan(
            *(problem.projected[first:end], problem.attention[first:end], torch.tensor([0, end - first])),
            *(problem.weight, problem.bias),
            rule="augru",
            initial_BH=problem.initial[row : row + 1],
        )
        torch.testing.assert_close(alone, together[first:end], rtol=0, atol=0 if not INTERPRETED else 1e-6)


def test_strided_inputs_and_gradients(make_problem, assert_close) -> None:
    problem = make_problem([3, 2, 4], 8, "augru")
    expected = problem.states_and_gradients(reference.gated_scan)
    for name in ("projected", "weight", "initial"):
        value = getattr(problem, name).detach()
        setattr(problem, name, value.T.contiguous().T.requires_grad_())
    assert_close(problem.states_and_gradients(gated_scan), expected)
    sums = torch.autograd.grad(problem.states(gated_scan).sum(), problem.leaves)  # an expanded gradient
    assert_close(list(sums), list(torch.autograd.grad(problem.states(reference.gated_scan).sum(), problem.leaves)))


@pytest.mark.skipif(INTERPRETED, reason="threads of the CPU kernel")
def test_threads_agree_and_repeat_exactly(make_problem, assert_close) -> None:
    problem = make_problem([90, 3, 40, 0, 17, 60, 60, 5, 80, 33, 1, 70, 25], 36, "augru")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = problem.states_and_gradients(gated_scan)
        torch.set_num_threads(3)
        three = [problem.states_and_gradients(gated_scan) for _ in range(5)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], three[0][0])  # states do not even depend on the number of threads
    assert_close(three[0], one)
    for again in three[1:]:
        assert all(torch.equal(x, y) for x, y in zip(again, three[0], strict=True))


@pytest.mark.filterwarnings("ignore:overflow")  # numpy, under the interpreter: exp(-x) = inf is meant
def test_large_activations_stay_finite(make_problem, assert_close) -> None:
    problem = make_problem([6, 6], 8, "augru_code")
    problem.projected = (problem.projected.detach() * 1e4).requires_grad_()
    ours = problem.states_and_gradients(gated_scan)
    assert all(x.isfinite().all() for x in ours)
    assert_close(ours, problem.states_and_gradients(reference.gated_scan))
