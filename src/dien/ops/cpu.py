"""The CPU engine: the compiled kernels of `native/` on torch tensors, float32 or float64."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dien.ops import build
from dien.ops.engines import engine_for, traced
from dien.ops.layout import COEFFICIENTS, empty_gradients, empty_results, offsets_error

SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
OUT_OF_MEMORY = 2  # what a kernel returns then; 0 is done, 1 that offsets, rows, ids or lengths are wrong


def takes(*tensors: Tensor | None) -> bool:
    """Whether the kernels beside the scan can take these: eager, outside autocast, one dtype, on a CPU with kernels.

    For the scan itself see `dien.ops.gated_scan`.
    """
    if traced() or torch.is_autocast_enabled("cpu"):
        return False
    dtype = next(tensor.dtype for tensor in tensors if tensor is not None)
    fit = dtype in SUFFIX and all(tensor is None or (tensor.dtype == dtype and tensor.is_cpu) for tensor in tensors)
    return fit and engine_for("cpu") == "cpu"  # asked last: it compiles the kernels, or says why it cannot


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
    _scan("forward", inputs, (states, saved if save else None), rule=rule, offsets=offsets, states_NH=states)
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
    _scan("backward", inputs, outputs, rule=rule, offsets=offsets, states_NH=states_NH)
    return gradients


def _scan(
    name: str,
    inputs: tuple[Tensor | None, ...],
    outputs: tuple[Tensor | None, ...],
    *,
    rule: str,
    offsets: Tensor,
    states_NH: Tensor,
) -> None:
    dtypes = {tensor.dtype for tensor in inputs if tensor is not None and tensor is not offsets}
    if len(dtypes) > 1 or not dtypes <= SUFFIX.keys():
        given = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"the scan on the CPU needs tensors of one dtype, float32 or float64, got {given}.")
    if call(name, inputs, (len(offsets) - 1, *states_NH.shape), outputs, numbers=COEFFICIENTS[rule]):
        raise offsets_error(offsets, len(states_NH))


def call(
    name: str,
    inputs: Sequence[Tensor | None],
    sizes: Sequence[int],
    outputs: Sequence[Tensor | None],
    *,
    numbers: Sequence[float] | None = None,
) -> bool:
    """Run the C function `name` of the outputs' dtype: inputs, numbers, sizes, threads, outputs; None is null.

    Returns:
        Whether it refused the inputs.

    Raises:
        MemoryError: it found no memory to work in.
    """
    dtype = next(tensor.dtype for tensor in outputs if tensor is not None)
    function = _function(
        f"{name}_{SUFFIX.get(dtype, 'i64')}", len(inputs) + (numbers is not None), len(sizes), len(outputs)
    )
    contiguous = [None if tensor is None else tensor.contiguous() for tensor in inputs]
    constants = () if numbers is None else ((ctypes.c_double * len(numbers))(*numbers),)
    before, after = ([None if x is None else x.data_ptr() for x in tensors] for tensors in (contiguous, outputs))
    status: int = function(*before, *constants, *sizes, torch.get_num_threads(), *after)
    if status == OUT_OF_MEMORY:
        raise MemoryError(f"the kernel {name} found no memory to work in, for sizes {tuple(sizes)}")
    return status != 0


@functools.cache
def _function(name: str, inputs: int, sizes: int, outputs: int) -> Any:
    """A function of the library: pointers, whole numbers, the number of threads, pointers."""
    function = getattr(build.library(), name)
    pointer, whole = ctypes.c_void_p, ctypes.c_int64  # with types ctypes takes plain numbers, which costs less time
    function.argtypes = (*[pointer] * inputs, *[whole] * sizes, ctypes.c_int, *[pointer] * outputs)
    return function
