"""Tensors that are not on the CPU never ask for its kernels: a machine with a GPU may have no compiler."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dien.ops import dense, dice, last_state, linear, lookup, perceptron, softmax


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)


def whole(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int64)


OPS: dict[str, Callable[[], Tensor]] = {
    "linear": lambda: linear(empty(9, 4), empty(3, 4), empty(3)),
    "lookup": lambda: lookup(empty(9, 4), whole(5), whole(7, 2)),
    "perceptron": lambda: perceptron(
        *(empty(9, 4), empty(2, 3), whole(9), empty(5, 7), empty(5), empty(6, 5), empty(6), empty(1, 6), empty(1))
    ),
    "dice": lambda: dice(
        *(empty(9, 4), empty(4), empty(4).detach(), empty(4).detach()), training=True, momentum=0.1, eps=1e-8
    ),
    "softmax": lambda: softmax(empty(9), whole(3), whole(9), 5),
    "last_state": lambda: last_state(empty(9, 4), whole(3)),
}


@pytest.mark.parametrize("op", OPS)
def test_a_forced_triton_leaves_the_other_operations_to_torch(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIEN_SCAN", "triton")  # which cannot run on the CPU: whoever asks for it there is told so
    monkeypatch.setattr(dense, "FEWEST", 0)
    assert OPS[op]().device.type == "meta"
