# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton kernels of the gated scan: one program walks a block of rows through all time steps.

Two layouts of the same recurrence. `held`: the three [H, H] weights are loaded once and stay on chip (registers and
shared memory) for the whole walk, and so does the state. `streamed`, for hidden sizes whose weights do not fit: the
state lives in a scratch buffer and each step reads the weights tile by tile, from the L2 cache that all programs share.

Axes: ROWS rows of a program, HP hidden size padded to a power of two; i is the flat index of a row's step. DTYPE and
PRECISION are those of the products; their sums are float32.
Rows are taken in the order of their length, so that the rows of a program end together.
"""

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _rows(order, offsets, batch, ROWS: tl.constexpr):
    """Row numbers, their first flat index and their length; length 0 past the end of the batch."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = place < batch
    row = tl.load(order + place, mask=inside, other=0)
    first = tl.load(offsets + row, mask=inside, other=0)
    end = tl.load(offsets + row + 1, mask=inside, other=0)
    return row, first, end - first, inside


@triton.jit
def _square(weight, gate, out, inner, H: tl.constexpr, TRANSPOSED: tl.constexpr, DTYPE: tl.constexpr):
    """A tile of `weight_hh[gate]` in the dtype of the products: [inner, out] (times a state) or [out, inner]."""
    if TRANSPOSED:
        at = inner[:, None] + out[None, :] * H
        mask = (inner < H)[:, None] & (out < H)[None, :]
    else:
        at = out[:, None] * H + inner[None, :]
        mask = (out < H)[:, None] & (inner < H)[None, :]
    return tl.load(weight + gate * H * H + at, mask=mask, other=0.0).to(DTYPE)


@triton.jit
def _gate(base, i, gate, column, mask, WIDTH: tl.constexpr, H: tl.constexpr):
    """Part `gate` of rows i of a [N, WIDTH * H] array, in float32."""
    at = (i * (WIDTH * H))[:, None] + (gate * H + column)[None, :]
    return tl.load(base + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _put(base, i, gate, column, mask, value, WIDTH: tl.constexpr, H: tl.constexpr):
    """Store part `gate` of rows i of a [N, WIDTH * H] array."""
    at = (i * (WIDTH * H))[:, None] + (gate * H + column)[None, :]
    tl.store(base + at, value, mask=mask)


@triton.jit
def _attention(attention, i, active, HAS_ATTENTION: tl.constexpr):
    if HAS_ATTENTION:
        a = tl.load(attention + i, mask=active, other=0.0).to(tl.float32)
    else:
        a = tl.zeros_like(i).to(tl.float32)
    return a


@triton.jit
def _initial(initial, row, column, mask, HAS_INITIAL: tl.constexpr, H: tl.constexpr):
    if HAS_INITIAL:
        h = tl.load(initial + (row * H)[:, None] + column[None, :], mask=mask, other=0.0).to(tl.float32)
    else:
        h = tl.zeros(mask.shape, tl.float32)
    return h


@triton.jit
def _cell(x_r, x_z, x_n, h_r, h_z, h_n, h, a, P: tl.constexpr, Q: tl.constexpr, S: tl.constexpr):
    """Gates and next state; the rule is w = (P + Q a) u + S a."""
    r = tl.sigmoid(x_r + h_r)
    u = tl.sigmoid(-(x_z + h_z))
    n = _tanh(x_n + r * h_n)
    w = (P + Q * a)[:, None] * u + (S * a)[:, None]
    return r, u, n, h + w * (n - h)


@triton.jit
def _cell_backward(to_h, r, u, n, h_n, h, a, P: tl.constexpr, Q: tl.constexpr, S: tl.constexpr):
    """Gradients of x_r (= h_r), x_z (= h_z), x_n, h_n, the part of h beside the gates, and the summands of a."""
    gate = (P + Q * a)[:, None]
    w = gate * u + (S * a)[:, None]
    to_w = to_h * (n - h)
    to_n = to_h * w * (1.0 - n * n)
    to_r = to_n * h_n * r * (1.0 - r)
    to_z = -(to_w * gate * u * (1.0 - u))
    return to_r, to_z, to_n, to_n * r, to_h - to_h * w, to_w * (Q * u + S)


@triton.jit
def forward_held(
    projected, attention, offsets, order, weight, bias, initial, states, saved, scratch, batch,
    H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, S: tl.constexpr,
    HAS_ATTENTION: tl.constexpr, HAS_INITIAL: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    row, first, length, inside = _rows(order, offsets, batch, ROWS)
    column = tl.arange(0, HP)
    real = column < H
    w_r = _square(weight, 0, column, column, H, True, DTYPE)
    w_z = _square(weight, 1, column, column, H, True, DTYPE)
    w_n = _square(weight, 2, column, column, H, True, DTYPE)
    b_r = tl.load(bias + column, mask=real, other=0.0).to(tl.float32)[None, :]
    b_z = tl.load(bias + H + column, mask=real, other=0.0).to(tl.float32)[None, :]
    b_n = tl.load(bias + 2 * H + column, mask=real, other=0.0).to(tl.float32)[None, :]
    h = _initial(initial, row, column, inside[:, None] & real[None, :], HAS_INITIAL, H)

    # A step's inputs are loaded during the step before: only the recurrence itself is waited for.
    active = length > 0
    mask = active[:, None] & real[None, :]
    x_r = _gate(projected, first, 0, column, mask, 3, H)
    x_z = _gate(projected, first, 1, column, mask, 3, H)
    x_n = _gate(projected, first, 2, column, mask, 3, H)
    a = _attention(attention, first, active, HAS_ATTENTION)
    for t in range(tl.max(length, 0)):
        i = first + t
        mask = (t < length)[:, None] & real[None, :]
        later = t + 1 < length
        later_mask = later[:, None] & real[None, :]
        next_r = _gate(projected, i + 1, 0, column, later_mask, 3, H)
        next_z = _gate(projected, i + 1, 1, column, later_mask, 3, H)
        next_n = _gate(projected, i + 1, 2, column, later_mask, 3, H)
        next_a = _attention(attention, i + 1, later, HAS_ATTENTION)

        state = h.to(DTYPE)
        h_r = tl.dot(state, w_r, input_precision=PRECISION) + b_r
        h_z = tl.dot(state, w_z, input_precision=PRECISION) + b_z
        h_n = tl.dot(state, w_n, input_precision=PRECISION) + b_n
        r, u, n, h = _cell(x_r, x_z, x_n, h_r, h_z, h_n, h, a, P, Q, S)
        _put(states, i, 0, column, mask, h, 1, H)
        if SAVE:
            _put(saved, i, 0, column, mask, r, 4, H)
            _put(saved, i, 1, column, mask, u, 4, H)
            _put(saved, i, 2, column, mask, n, 4, H)
            _put(saved, i, 3, column, mask, h_n, 4, H)
        x_r, x_z, x_n, a = next_r, next_z, next_n, next_a


@triton.jit
def forward_streamed(
    projected, attention, offsets, order, weight, bias, initial, states, saved, scratch, batch,
    H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, S: tl.constexpr,
    HAS_ATTENTION: tl.constexpr, HAS_INITIAL: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    row, first, length, inside = _rows(order, offsets, batch, ROWS)
    tile = tl.arange(0, TILE)
    # scratch: float32 [programs, 2, ROWS, HP], the state before the step and the one after it, swapped every step
    here = scratch + tl.program_id(0) * (2 * ROWS * HP) + (tl.arange(0, ROWS) * HP)[:, None] + tile[None, :]
    for start in range(0, HP, TILE):
        column = start + tile
        h = _initial(initial, row, column, inside[:, None] & (column < H)[None, :], HAS_INITIAL, H)
        tl.store(here + start, h)
    tl.debug_barrier()

    for t in range(tl.max(length, 0)):
        i = first + t
        active = t < length
        a = _attention(attention, i, active, HAS_ATTENTION)
        before = here + (t % 2) * (ROWS * HP)
        after = here + (1 - t % 2) * (ROWS * HP)
        for start in range(0, HP, TILE):
            column = start + tile
            real = column < H
            mask = active[:, None] & real[None, :]
            h_r = tl.zeros((ROWS, TILE), tl.float32)
            h_z = tl.zeros((ROWS, TILE), tl.float32)
            h_n = tl.zeros((ROWS, TILE), tl.float32)
            for inner in range(0, HP, TILE):
                state = tl.load(before + inner).to(DTYPE)
                w_r = _square(weight, 0, column, inner + tile, H, True, DTYPE)
                w_z = _square(weight, 1, column, inner + tile, H, True, DTYPE)
                w_n = _square(weight, 2, column, inner + tile, H, True, DTYPE)
                h_r = tl.dot(state, w_r, h_r, input_precision=PRECISION)
                h_z = tl.dot(state, w_z, h_z, input_precision=PRECISION)
                h_n = tl.dot(state, w_n, h_n, input_precision=PRECISION)
            h_r += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)[None, :]
            h_z += tl.load(bias + H + column, mask=real, other=0.0).to(tl.float32)[None, :]
            h_n += tl.load(bias + 2 * H + column, mask=real, other=0.0).to(tl.float32)[None, :]
            x_r = _gate(projected, i, 0, column, mask, 3, H)
            x_z = _gate(projected, i, 1, column, mask, 3, H)
            x_n = _gate(projected, i, 2, column, mask, 3, H)
            r, u, n, h = _cell(x_r, x_z, x_n, h_r, h_z, h_n, tl.load(before + start), a, P, Q, S)
            tl.store(after + start, h)
            _put(states, i, 0, column, mask, h, 1, H)
            if SAVE:
                _put(saved, i, 0, column, mask, r, 4, H)
                _put(saved, i, 1, column, mask, u, 4, H)
                _put(saved, i, 2, column, mask, n, 4, H)
                _put(saved, i, 3, column, mask, h_n, 4, H)
        tl.debug_barrier()  # the next step reads the whole state


@triton.jit
def backward_held(
    grad_states, attention, offsets, order, weight, initial, states, saved,
    grad_projected, grad_hidden, previous, grad_attention, grad_initial, scratch, batch,
    H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, S: tl.constexpr,
    HAS_ATTENTION: tl.constexpr, HAS_INITIAL: tl.constexpr, PRECISION: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    row, first, length, inside = _rows(order, offsets, batch, ROWS)
    column = tl.arange(0, HP)
    real = column < H
    w_r = _square(weight, 0, column, column, H, False, DTYPE)
    w_z = _square(weight, 1, column, column, H, False, DTYPE)
    w_n = _square(weight, 2, column, column, H, False, DTYPE)
    start = _initial(initial, row, column, inside[:, None] & real[None, :], HAS_INITIAL, H)
    to_later = tl.zeros((ROWS, HP), tl.float32)  # gradient of the state from the steps after it

    longest = tl.max(length, 0)
    for step in range(longest):
        t = longest - 1 - step
        i = first + t
        active = t < length
        mask = active[:, None] & real[None, :]
        earlier = (i > first)[:, None]
        h = tl.where(earlier, _gate(states, i - 1, 0, column, mask & earlier, 1, H), start)
        a = _attention(attention, i, active, HAS_ATTENTION)
        r = _gate(saved, i, 0, column, mask, 4, H)
        u = _gate(saved, i, 1, column, mask, 4, H)
        n = _gate(saved, i, 2, column, mask, 4, H)
        h_n = _gate(saved, i, 3, column, mask, 4, H)
        to_h = _gate(grad_states, i, 0, column, mask, 1, H) + to_later
        to_r, to_z, to_n, to_h_n, direct, to_a = _cell_backward(to_h, r, u, n, h_n, h, a, P, Q, S)
        _put(grad_projected, i, 0, column, mask, to_r, 3, H)
        _put(grad_projected, i, 1, column, mask, to_z, 3, H)
        _put(grad_projected, i, 2, column, mask, to_n, 3, H)
        _put(grad_hidden, i, 0, column, mask, to_r, 3, H)
        _put(grad_hidden, i, 1, column, mask, to_z, 3, H)
        _put(grad_hidden, i, 2, column, mask, to_h_n, 3, H)
        _put(previous, i, 0, column, mask, h, 1, H)
        if HAS_ATTENTION:
            tl.store(grad_attention + i, tl.sum(tl.where(mask, to_a, 0.0), 1), mask=active)
        direct = tl.dot(to_r.to(DTYPE), w_r, direct, input_precision=PRECISION)
        direct = tl.dot(to_z.to(DTYPE), w_z, direct, input_precision=PRECISION)
        direct = tl.dot(to_h_n.to(DTYPE), w_n, direct, input_precision=PRECISION)
        to_later = tl.where(mask, direct, 0.0)
    if HAS_INITIAL:
        mask = inside[:, None] & real[None, :]
        tl.store(grad_initial + (row * H)[:, None] + column[None, :], to_later, mask=mask)


@triton.jit
def backward_streamed(
    grad_states, attention, offsets, order, weight, initial, states, saved,
    grad_projected, grad_hidden, previous, grad_attention, grad_initial, scratch, batch,
    H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, S: tl.constexpr,
    HAS_ATTENTION: tl.constexpr, HAS_INITIAL: tl.constexpr, PRECISION: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    row, first, length, inside = _rows(order, offsets, batch, ROWS)
    tile = tl.arange(0, TILE)
    # scratch: float32 [programs, 2, ROWS, HP], the gradient from later steps, and its part beside the gates
    to_later = scratch + tl.program_id(0) * (2 * ROWS * HP) + (tl.arange(0, ROWS) * HP)[:, None] + tile[None, :]
    beside = to_later + ROWS * HP
    for start in range(0, HP, TILE):
        tl.store(to_later + start, tl.zeros((ROWS, TILE), tl.float32))
    tl.debug_barrier()

    longest = tl.max(length, 0)
    for step in range(longest):
        t = longest - 1 - step
        i = first + t
        active = t < length
        a = _attention(attention, i, active, HAS_ATTENTION)
        sum_a = tl.zeros((ROWS,), tl.float32)
        for start in range(0, HP, TILE):
            column = start + tile
            mask = active[:, None] & (column < H)[None, :]
            h = _initial(initial, row, column, mask & (i == first)[:, None], HAS_INITIAL, H)
            h += _gate(states, i - 1, 0, column, mask & (i > first)[:, None], 1, H)
            r = _gate(saved, i, 0, column, mask, 4, H)
            u = _gate(saved, i, 1, column, mask, 4, H)
            n = _gate(saved, i, 2, column, mask, 4, H)
            h_n = _gate(saved, i, 3, column, mask, 4, H)
            to_h = _gate(grad_states, i, 0, column, mask, 1, H) + tl.load(to_later + start)
            to_r, to_z, to_n, to_h_n, direct, to_a = _cell_backward(to_h, r, u, n, h_n, h, a, P, Q, S)
            _put(grad_projected, i, 0, column, mask, to_r, 3, H)
            _put(grad_projected, i, 1, column, mask, to_z, 3, H)
            _put(grad_projected, i, 2, column, mask, to_n, 3, H)
            _put(grad_hidden, i, 0, column, mask, to_r, 3, H)
            _put(grad_hidden, i, 1, column, mask, to_z, 3, H)
            _put(grad_hidden, i, 2, column, mask, to_h_n, 3, H)
            _put(previous, i, 0, column, mask, h, 1, H)
            tl.store(beside + start, direct)
            sum_a += tl.sum(tl.where(mask, to_a, 0.0), 1)
        if HAS_ATTENTION:
            tl.store(grad_attention + i, sum_a, mask=active)
        tl.debug_barrier()  # the products below read all columns of grad_hidden

        for start in range(0, HP, TILE):
            column = start + tile
            total = tl.load(beside + start)
            for inner in range(0, HP, TILE):
                out = inner + tile
                mask = active[:, None] & (out < H)[None, :]
                for gate in tl.static_range(3):
                    to_gate = _gate(grad_hidden, i, gate, out, mask, 3, H).to(DTYPE)
                    w = _square(weight, gate, out, column, H, False, DTYPE)
                    total = tl.dot(to_gate, w, total, input_precision=PRECISION)
            tl.store(to_later + start, tl.where(active[:, None] & (column < H)[None, :], total, 0.0))
        tl.debug_barrier()
    if HAS_INITIAL:
        for start in range(0, HP, TILE):
            column = start + tile
            mask = inside[:, None] & (column < H)[None, :]
            at = (row * H)[:, None] + column[None, :]
            tl.store(grad_initial + at, tl.load(to_later + start), mask=mask)
