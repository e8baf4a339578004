"""What the autograd functions of the package share: when they run, and that their gradients have none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dien.errors import DienError


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether a backward may follow, for which autograd needs a function; without one its call would cost in vain."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def once(what: str, run: Callable[..., Any], *inputs: Any) -> Any:
    """`run(*inputs)`, the gradients of a kernel.

    Raises:
        DienError: when they are differentiated, which may happen where gradients are enabled in a backward.
    """
    return _Once.apply(what, run, *inputs) if torch.is_grad_enabled() else run(*inputs)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, what: str, run: Callable[..., Any], *inputs: Any) -> Any:
        ctx.what = what
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        raise DienError(f"{ctx.what} is differentiable once: set DIEN_SCAN=reference for second derivatives.")
