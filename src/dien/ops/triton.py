"""The GPU engine: Triton kernels, persistent over time, for float32, bfloat16 and float16.

Sums, gates and the carried state are float32 whatever the input. Products of float32 are three TF32 products
("tf32x3", as exact as float32) on the tensor cores, or one where torch allows TF32. The weight gradient is one matrix
product after the walk, without atomics, so gradients are deterministic.
"""

import functools
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from dien.ops import triton_kernels
from dien.ops.layout import COEFFICIENTS, empty_gradients, empty_results

ROWS = 16  # rows of a program: the fewest that a tensor core multiplies
HELD_BYTES = 96 << 10  # of weights: larger ones are streamed even where a program has room for them
# A loop over time has nothing to overlap but its own steps, which depend on each other: no software pipeline.
OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}


class Plan(NamedTuple):
    """How a hidden size is laid out on the chip: padded size, tile of columns, weights held or streamed, warps."""

    padded: int
    tile: int
    held: bool
    warps: int


def plan(hidden: int, dtype: torch.dtype, precision: str, shared: int) -> Plan:
    """How to lay out a hidden size on a chip that gives a program `shared` bytes; what is not held is streamed.

    Held up to H = 64 in float32 and H = 128 in half precision, as far as they fit. Float32 at "tf32x3" takes twice the
    room: 104 KiB at H = 64, which sm_80 (163 KiB) and sm_90 (227 KiB) have, sm_86, sm_89 and sm_120 (99 KiB) have not.
    """
    padded = max(16, triton.next_power_of_2(hidden))
    weights, state = 3 * padded * padded * dtype.itemsize, 4 * ROWS * padded
    copies = 2 if dtype == torch.float32 and precision == "tf32x3" else 1  # the high and the low bits of each number
    held = weights <= HELD_BYTES and copies * (weights + state) <= shared
    return Plan(padded=padded, tile=padded if held else 64, held=held, warps=4 if padded <= 64 else 8)


@functools.cache
def shared_bytes(device: torch.device) -> int:
    """What a program may have of the shared memory of a multiprocessor; without a GPU, in the interpreter, sm_80's."""
    if device.type != "cuda":
        return 163 << 10
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 64 << 10)  # which torch for AMD lacks


def _precision() -> str:
    """Of products of float32. `allow_tf32` raises once the user chose by `fp32_precision`, which torch 2.8 lacks."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    return "tf32" if precision == "tf32" or (precision is None and matmul.allow_tf32) else "tf32x3"


def _interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 was set when Triton was imported: the kernels then run anywhere, slowly."""
    return not isinstance(triton_kernels.forward_held, triton.JITFunction)


def _product_dtype(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype; float32 in the interpreter, which multiplies the bits of bfloat16 as integers."""
    return tl.float32 if _interpreted() else getattr(tl, str(dtype).removeprefix("torch."))


def unavailable(device_type: str, double: bool) -> str | None:
    """Why this engine cannot run on such tensors, or None if it can."""
    if double:
        return "its kernels compute in float32"
    if _interpreted():
        return None
    if device_type != "cuda":
        return f"the tensors are on {device_type}"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 8 else f"it needs compute capability 8.0 or more, not {major}.{minor}"


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
    _launch(
        "forward",
        (projected_N3H, attention_N, offsets, weight_hh, bias_hh, initial_BH),
        (states, saved),
        states=states,
        rule=rule,
        constants={
            "HAS_ATTENTION": attention_N is not None,
            "HAS_INITIAL": initial_BH is not None,
            "SAVE": save,
        },
    )
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
    hidden_N3H = torch.empty_like(projected)  # gradient of W_hh h + b_hh
    previous_NH = torch.empty_like(states_NH)
    _launch(
        "backward",
        (grad_states_NH, attention_N, offsets, weight_hh, initial_BH, states_NH, saved_N4H),
        (projected, hidden_N3H, previous_NH, attention, initial),
        states=states_NH,
        rule=rule,
        constants={"HAS_ATTENTION": attention_N is not None, "HAS_INITIAL": initial_BH is not None},
    )
    weight.copy_(hidden_N3H.T @ previous_NH)
    bias.copy_(hidden_N3H.sum(0, dtype=torch.float32))
    return gradients


def _launch(
    name: str,
    inputs: tuple[Tensor | None, ...],
    outputs: tuple[Tensor, ...],
    *,
    states: Tensor,
    rule: str,
    constants: dict[str, bool],
) -> None:
    """Run a kernel over all rows, longest first so that the rows of a program end together."""
    offsets = next(x for x in inputs if x is not None and x.dtype == torch.int64)
    batch, hidden = len(offsets) - 1, states.shape[1]
    if batch == 0:
        return
    precision = _precision()
    layout = plan(hidden, states.dtype, precision, shared_bytes(states.device))
    programs = triton.cdiv(batch, ROWS)
    order = offsets.diff().argsort(descending=True, stable=True)
    scratch = states.new_empty(0 if layout.held else programs * 2 * ROWS * layout.padded, dtype=torch.float32)
    p, q, s = COEFFICIENTS[rule]

    contiguous: list[Any] = [states if x is None else x.contiguous() for x in inputs]  # never read where None
    contiguous.insert(3, order)
    kernel = getattr(triton_kernels, f"{name}_{'held' if layout.held else 'streamed'}")
    with torch.cuda.device(states.device) if states.is_cuda else nullcontext():
        kernel[(programs,)](
            *contiguous,
            *outputs,
            scratch,
            batch,
            H=hidden,
            HP=layout.padded,
            ROWS=ROWS,
            TILE=layout.tile,
            P=p,
            Q=q,
            S=s,
            PRECISION=precision,
            DTYPE=_product_dtype(states.dtype),
            num_warps=layout.warps,
            **constants,
            **OPTIONS,
        )
