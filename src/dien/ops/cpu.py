"""The CPU engine: the compiled kernel of `native/` on torch tensors, float32 or float64."""

import ctypes

import torch
from torch import Tensor

from dien.ops import build
from dien.ops.engines import engine_for
from dien.ops.layout import COEFFICIENTS, empty_gradients, empty_results, offsets_error

SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


def takes(*tensors: Tensor | None) -> bool:
    """Whether the kernels beside the scan can take these: eager, outside autocast, one dtype, on a CPU with kernels.

    For the scan itself see `dien.ops.gated_scan`.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    return (
        not torch.compiler.is_compiling()
        and dtype in SUFFIX
        and all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in given)
        and not torch.is_autocast_enabled("cpu")
        and engine_for("cpu") == "cpu"
    )


def unavailable(device_type: str, double: bool) -> str | None:
    """Why this engine cannot run on such tensors, or None if it can. Compiles the kernel if need be."""
    if device_type != "cpu":
        return f"the tensors are on {device_type}"
    try:
        build.library()
    except build.BuildError as error:
        return str(error)
    return None


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
    """States and saved gates, see `empty_results`."""
    states, saved = empty_results(projected_N3H, weight_hh, save)
    inputs = (projected_N3H, attention_N, offsets, weight_hh, bias_hh, initial_BH)
    _call("forward", inputs, (states, saved if save else None), rule=rule, offsets=offsets, states_NH=states)
    return states, saved


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
    """Gradients with respect to the inputs, see `empty_gradients`."""
    gradients = empty_gradients(states_NH, attention_N, weight_hh, initial_BH)
    projected, attention, weight, bias, initial = gradients
    initial.zero_()  # the kernel visits no row of length 0
    inputs = (grad_states_NH, attention_N, offsets, weight_hh, initial_BH, states_NH, saved_N4H)
    outputs = (
        *(projected, None if attention_N is None else attention),
        *(weight, bias, None if initial_BH is None else initial),
    )
    _call("backward", inputs, outputs, rule=rule, offsets=offsets, states_NH=states_NH)
    return gradients


def _call(
    name: str,
    inputs: tuple[Tensor | None, ...],
    outputs: tuple[Tensor | None, ...],
    *,
    rule: str,
    offsets: Tensor,
    states_NH: Tensor,
) -> None:
    """Call the C function: pointers to the inputs, the sizes, pointers to the outputs; None is a null pointer."""
    function = getattr(build.library(), f"{name}_{SUFFIX[states_NH.dtype]}")
    contiguous = [None if tensor is None else tensor.contiguous() for tensor in inputs]
    invalid = function(
        *map(pointer, contiguous),
        (ctypes.c_double * 3)(*COEFFICIENTS[rule]),
        *(ctypes.c_int64(size) for size in (len(offsets) - 1, *states_NH.shape)),
        ctypes.c_int(torch.get_num_threads()),
        *map(pointer, outputs),
    )
    if invalid:
        raise offsets_error(offsets, len(states_NH))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """To the first element; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
