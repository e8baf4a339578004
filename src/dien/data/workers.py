"""Reading processes: how they end, and how their batches travel."""

import signal
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from dien.batch import Batch

_GRACE = 30
"""Seconds that a reading process lives on after SIGTERM."""


def outlive_signals(worker: int) -> None:
    """A signal to all processes of a job ends this one by way of the training process, which has a step to finish."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE))


class _Parcel:
    """A batch on its way out of a worker: it unpickles as the batch itself.

    Tensors would travel as one shared-memory file each, which costs several times the making of the batch and fails
    where shared memory is small (containers); plain bytes through the pipe do not.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, tuple(tensor.numpy() for tensor in self.batch)


def _unpack(*arrays: NDArray[Any]) -> Batch:
    return Batch(*map(torch.from_numpy, arrays))


def send(batch: Any) -> Any:
    """A batch as it is, or packed where it leaves a reading process."""
    return batch if get_worker_info() is None else _Parcel(batch)
