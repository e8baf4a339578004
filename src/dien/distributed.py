"""What the processes of one training share, so that together they compute what one process with all rows would.

Alone, every function returns its argument unchanged and calls nothing. With several processes each call is a
collective: all of them must make it, in the same order.
"""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over the processes; without gradient."""
    if processes() == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / processes()


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""
    return x if processes() == 1 else _Total.apply(x)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Total.forward(ctx, grad)


def average_rows(gradient: Tensor) -> Tensor:
    """The mean over the processes of a sparse gradient `[R, E]`: only rows that some process looked up travel."""
    if processes() == 1:
        return gradient
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values() / processes()
    counts = [rows.new_zeros(1) for _ in range(processes())]
    dist.all_gather(counts, rows.new_tensor([len(rows)]))
    # Collectives want equal sizes: short lists are filled up with row 0 and zeros, which add nothing.
    padding = int(torch.cat(counts).max()) - len(rows)
    rows, values = F.pad(rows, (0, padding)), F.pad(values, (0, 0, 0, padding))
    all_rows = [torch.empty_like(rows) for _ in range(processes())]
    all_values = [torch.empty_like(values) for _ in range(processes())]
    dist.all_gather(all_rows, rows)
    dist.all_gather(all_values, values)
    summed = torch.sparse_coo_tensor(
        torch.cat(all_rows)[None], torch.cat(all_values), gradient.shape, check_invariants=False
    )
    return summed.coalesce()


def agreed(name: str, value: str) -> str:
    """`value` of the first process, in all processes of a torchrun launch; before the processes know each other.

    torchrun's own key-value store carries it. Elsewhere, and alone, each process has its own value.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" not in environment or int(environment.get("WORLD_SIZE", "1")) == 1:
        return value
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=120))  # type: ignore[attr-defined]
    key = f"dien/{name}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if environment["RANK"] == "0":
        store.set(key, value)
    return store.get(key).decode()
