"""The scan as one operator of torch, `dien::gated_scan`: what autograd, torch.compile and torch.export see.

The operator runs the engine of the machine it finds itself on, so a program exported here runs elsewhere. It checks
its inputs itself: nobody could while the program was traced, and everybody can call it.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dien.errors import DienError
from dien.ops import engines, reference
from dien.ops.layout import check_gradients, check_inputs, empty_gradients, empty_results


def _checked(run: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """`run` after `check` of its inputs; its signature, of which torch makes the operator's schema, stays."""

    @functools.wraps(run)
    def checked(*inputs: Any) -> Any:
        check(*inputs)
        return run(*inputs)

    return checked


def forward(
    projected_N3H: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    initial_BH: Tensor | None,
    rule: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """States and saved gates, see `layout.empty_results`, of checked inputs. Only what is saved has a backward."""
    kernel = engines.kernel(engines.engine_for(projected_N3H.device, projected_N3H.dtype))
    if kernel is not None:
        return kernel.forward(projected_N3H, attention_N, offsets, weight_hh, bias_hh, initial_BH, rule, save)
    if save:
        raise DienError("This was traced for a scan kernel that cannot run here: trace it with DIEN_SCAN=reference.")
    states = reference.gated_scan(
        projected_N3H, attention_N, offsets, weight_hh, bias_hh, rule=rule, initial_BH=initial_BH
    )
    return states, empty_results(projected_N3H, weight_hh, save)[1]


gated_scan = torch.library.custom_op("dien::gated_scan", _checked(forward, check_inputs), mutates_args=())


@gated_scan.register_fake
def _(
    projected_N3H: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    initial_BH: Tensor | None,
    rule: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    return empty_results(projected_N3H, weight_hh, save)


def backward(
    grad_states_NH: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    initial_BH: Tensor | None,
    states_NH: Tensor,
    saved_N4H: Tensor,
    rule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to the inputs of `gated_scan`, see `layout.empty_gradients`."""
    kernel = engines.kernel(engines.engine_for(states_NH.device, states_NH.dtype))
    if kernel is None:
        raise DienError("DIEN_SCAN became 'reference' between a forward and its backward: set it before.")
    return kernel.backward(grad_states_NH, attention_N, offsets, weight_hh, initial_BH, states_NH, saved_N4H, rule)


gated_scan_backward = torch.library.custom_op(
    "dien::gated_scan_backward", _checked(backward, check_gradients), mutates_args=()
)


@gated_scan_backward.register_fake
def _(
    grad_states_NH: Tensor,
    attention_N: Tensor | None,
    offsets: Tensor,
    weight_hh: Tensor,
    initial_BH: Tensor | None,
    states_NH: Tensor,
    saved_N4H: Tensor,
    rule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return empty_gradients(states_NH, attention_N, weight_hh, initial_BH)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    _keep(ctx, inputs, output)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """What `_backward` needs."""
    _, attention_N, offsets, weight_hh, _, initial_BH, ctx.rule, _ = inputs
    ctx.set_materialize_grads(False)  # or torch makes zeros [N, 4H] for the saved gates
    ctx.save_for_backward(attention_N, offsets, weight_hh, initial_BH, *output)


def _backward(ctx: Any, grad_states_NH: Tensor | None, _: None, *, run: Any = gated_scan_backward) -> tuple[Any, ...]:
    if grad_states_NH is None:
        return (None,) * 8
    attention_N, offsets, weight_hh, initial_BH, states_NH, saved_N4H = ctx.saved_tensors
    projected, attention, weight, bias, initial = run(
        grad_states_NH, attention_N, offsets, weight_hh, initial_BH, states_NH, saved_N4H, ctx.rule
    )
    return (
        projected,
        None if attention_N is None else attention,
        None,
        weight,
        bias,
        None if initial_BH is None else initial,
        None,
        None,
    )


def _backward_twice(ctx: Any, *_: Tensor) -> tuple[None, ...]:
    raise DienError("The scan kernels are differentiable once: set DIEN_SCAN=reference for second derivatives.")


gated_scan.register_autograd(_backward, setup_context=_setup)
gated_scan_backward.register_autograd(_backward_twice)


class Scan(torch.autograd.Function):
    """The states of `gated_scan` without torch's dispatcher, whose calls cost as much as a small kernel: for eager
    programs that save gates.

    It does not check: `dien.ops.gated_scan` has, and autograd hands a backward the shapes that it was promised.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = forward(*inputs)
        _keep(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad_states_NH: Tensor | None) -> tuple[Any, ...]:
        # Where second derivatives may follow, the operator refuses them.
        run = gated_scan_backward if torch.is_grad_enabled() else backward
        return _backward(ctx, grad_states_NH, None, run=run)
