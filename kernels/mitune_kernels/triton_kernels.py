"""The device code of triton_ops.py.

The noise is computed as in reference_noise.py, line by line, with correctly rounded division and
square root, and launches forbid contraction: the words are the same, and the normals have the same
bits. Sums have an order of their own: each lane adds its element of every block of the row, and the
lanes are folded in half until one is left; nothing in this order depends on the batch, or on the
layout or dtype of the tensors.
"""

import triton
import triton.language as tl


@triton.jit
def _words(row, key, step, first, QUARTER: tl.constexpr):
    """Four ``[QUARTER]`` uint32 tensors: the words of the Philox blocks from element ``first``."""
    seed_lo = tl.load(key + 4 * row).to(tl.uint32).to(tl.uint64)
    seed_hi = tl.load(key + 4 * row + 1).to(tl.uint32).to(tl.uint64)
    block = (first // 4 + tl.arange(0, QUARTER)).to(tl.uint32)
    zero = tl.zeros_like(block)
    return tl.philox(
        seed_lo | (seed_hi << 32),
        block,
        zero + step.to(tl.uint32),
        zero + tl.load(key + 4 * row + 2).to(tl.uint32),
        zero + tl.load(key + 4 * row + 3).to(tl.uint32),
    )


@triton.jit
def _uniform(x):
    return x.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33


@triton.jit
def _radius(u):
    """sqrt(-2 ln u), by the series of ``reference_noise._log``."""
    i = u.to(tl.int32, bitcast=True)
    k = (i - 0x3F3504F3) >> 23
    f = (i - k * 0x800000).to(tl.float32, bitcast=True) - 1.0
    s = tl.div_rn(f, f + 2.0)
    w = s * s
    series = w * (
        0.6666666666666666 + w * (0.4 + w * (0.2857142857142857 + w * 0.2222222222222222))
    )
    log = k.to(tl.float32) * 0.693147180559945309 + (s * 2.0 + s * series)
    return tl.sqrt_rn(log * -2.0)


@triton.jit
def _circle(v):
    """Cosine and sine of 2 pi v, as ``reference_noise._circle``."""
    quarter = (v * 4.0 + 0.5).to(tl.int32)
    x = (v - quarter.to(tl.float32) * 0.25) * 6.28318530717958648
    w = x * x
    s = x + x * (
        w
        * (
            -0.16666666666666666
            + w * (0.008333333333333333 + w * (-0.0001984126984126984 + w * 2.7557319223985893e-06))
        )
    )
    c = 1.0 + w * (
        -0.5
        + w
        * (
            0.041666666666666664
            + w * (-0.001388888888888889 + w * (2.48015873015873e-05 + w * -2.755731922398589e-07))
        )
    )
    swap = (quarter & 1) == 1
    along, across = tl.where(swap, s, c), tl.where(swap, c, s)
    cosine = tl.where(((quarter + 1) & 2) == 2, -along, along)
    sine = tl.where((quarter & 2) == 2, -across, across)
    return cosine, sine


@triton.jit
def _normals(row, key, step, first, QUARTER: tl.constexpr):
    """``[4 QUARTER]`` float32 standard normals of the elements from ``first``."""
    x0, x1, x2, x3 = _words(row, key, step, first, QUARTER)
    r0, r1 = _radius(_uniform(x0)), _radius(_uniform(x2))
    c0, s0 = _circle(_uniform(x1))
    c1, s1 = _circle(_uniform(x3))
    return tl.interleave(tl.interleave(r0 * c0, r1 * c1), tl.interleave(r0 * s0, r1 * s1))


@triton.jit
def philox_kernel(key, step, out, count, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * BLOCK
    x0, x1, x2, x3 = _words(row, key, tl.load(step + row), first, BLOCK // 4)
    values = tl.interleave(tl.interleave(x0, x2), tl.interleave(x1, x3)).to(tl.int64)
    at = first + tl.arange(0, BLOCK)
    tl.store(out + row * count + at, values, mask=at < count)


@triton.jit
def normal_kernel(key, step, out, count, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * BLOCK
    values = _normals(row, key, tl.load(step + row), first, BLOCK // 4)
    at = first + tl.arange(0, BLOCK)
    tl.store(out + row * count + at, values, mask=at < count)


@triton.jit
def _total(x):
    """The sum of a block, folded in half until one element is left. ``tl.sum`` adds in an order
    that follows from which thread holds which element, and so from the layouts and dtypes of what
    was loaded: on an H200 its last bits differed between them."""
    for _ in tl.static_range(16):  # a block has at most 2^16 elements
        if x.shape[0] > 1:
            left, right = tl.split(tl.trans(tl.reshape(x, (2, x.shape[0] // 2))))
            x = left + right
    return tl.sum(x, axis=0)


@triton.jit
def _offset(at, count, channels, LAST: tl.constexpr):
    """The offsets of a row's elements, counted in C order, if it is stored channels-last or in C
    order."""
    if LAST:
        plane = count // channels
        return (at % plane) * channels + at // plane
    else:
        return at


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """Round float32 to the dtype of the model's input, to nearest, ties to even; written out for
    bfloat16, where Triton's interpreter would truncate."""
    if dtype == tl.bfloat16:
        i = x.to(tl.uint32, bitcast=True)
        i = tl.where(x == x, i + 0x7FFF + ((i >> 16) & 1), 0x7FC00000)
        return (i >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def _store_rows(
    z_next,
    model_input,
    row,
    rows,
    at,
    count,
    channels,
    values,
    COPIES: tl.constexpr,
    LAST_NEXT: tl.constexpr,
    LAST_INPUT: tl.constexpr,
):
    """The next latent, and its copies in the model's input."""
    inside = at < count
    tl.store(z_next + row * count + _offset(at, count, channels, LAST_NEXT), values, mask=inside)
    to = _offset(at, count, channels, LAST_INPUT)
    rounded = _rounded(values, model_input.dtype.element_ty)
    for copy in tl.static_range(COPIES):
        tl.store(model_input + (copy * rows + row) * count + to, rounded, mask=inside)


@triton.jit
def step_kernel(
    uncond,
    cond,
    z,
    score,
    index,
    key,
    table,
    z_next,
    score_next,
    terms,
    model_input,
    index_next,
    t_next,
    guidance,
    rows,
    table_rows,
    count,
    channels,
    LAST_UNCOND: tl.constexpr,
    LAST_COND: tl.constexpr,
    LAST_Z: tl.constexpr,
    LAST_NEXT: tl.constexpr,
    LAST_INPUT: tl.constexpr,
    IN_PLACE: tl.constexpr,
    HISTORY: tl.constexpr,
    COPIES: tl.constexpr,
    MOVES_INDEX: tl.constexpr,
    T_COPIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each row: every tensor is read once, and an idle row's predictions never."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.load(index + row)
    i = tl.where(i < -1, table_rows, i)  # treated like an index after the table's end
    before = tl.load(score + row)
    if i < 0:
        if not IN_PLACE:
            for first in range(0, count, BLOCK):
                at = first + tl.arange(0, BLOCK)
                z_at = z + row * count + _offset(at, count, channels, LAST_Z)
                now = tl.load(z_at, mask=at < count)
                _store_rows(
                    z_next, model_input, row, rows, at, count, channels, now, COPIES, LAST_NEXT,
                    LAST_INPUT,
                )  # fmt: skip
        tl.store(score_next + row, before)
        if not HISTORY:
            tl.store(terms + 2 * row, 0.0)
            tl.store(terms + 2 * row + 1, 0.0)
        if MOVES_INDEX:
            tl.store(index_next + row, i * 0 - 1)
    else:
        # The host does not check for an index outside the table, as it would wait: the row is NaN.
        known = i < table_rows
        nan = float("nan")
        a = tl.load(table + 5 * i, mask=known, other=nan)
        b = tl.load(table + 5 * i + 1, mask=known, other=nan)
        sigma = tl.load(table + 5 * i + 2, mask=known, other=nan)
        weight = tl.load(table + 5 * i + 3, mask=known, other=nan)
        squared = tl.zeros([BLOCK], tl.float32)
        cross = tl.zeros([BLOCK], tl.float32)
        for first in range(0, count, BLOCK):
            at = first + tl.arange(0, BLOCK)
            inside = at < count
            u_at = row * count + _offset(at, count, channels, LAST_UNCOND)
            c_at = row * count + _offset(at, count, channels, LAST_COND)
            z_at = row * count + _offset(at, count, channels, LAST_Z)
            u = tl.load(uncond + u_at, mask=inside, other=0.0).to(tl.float32)
            delta = tl.load(cond + c_at, mask=inside, other=0.0).to(tl.float32) - u
            now = tl.load(z + z_at, mask=inside, other=0.0)
            squared += delta * delta
            cross += u * delta
            moved = a * now + b * (u + guidance * delta)
            if sigma != 0.0:
                moved += sigma * _normals(row, key, i + 1, first, BLOCK // 4)
            _store_rows(
                z_next, model_input, row, rows, at, count, channels, moved, COPIES, LAST_NEXT,
                LAST_INPUT,
            )  # fmt: skip
        total = _total(squared)
        to = terms + 2 * (row * table_rows + i) if HISTORY else terms + 2 * row
        tl.store(to, total, mask=known)
        tl.store(to + 1, _total(cross), mask=known)
        if not HISTORY:
            tl.store(to, nan, mask=i >= table_rows)
            tl.store(to + 1, nan, mask=i >= table_rows)
        tl.store(score_next + row, before + weight * total)
        goes_on = i + 1 < table_rows
        if MOVES_INDEX:
            tl.store(index_next + row, tl.where(goes_on, i + 1, -1))
        if T_COPIES > 0:
            t = tl.load(table + 5 * (i + 1) + 4, mask=goes_on)
            for copy in tl.static_range(T_COPIES):
                tl.store(t_next + copy * rows + row, t, mask=goes_on)


@triton.jit
def renoise_kernel(
    z0, row, key, draw, levels, out, given, rows, count, COPIES: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    source = tl.load(row + i)
    known = (source >= 0) & (source < given)
    signal = tl.load(levels + 4 * i, mask=known, other=float("nan"))
    spread = tl.load(levels + 4 * i + 1)
    at = first + tl.arange(0, BLOCK)
    inside = at < count
    clean = tl.load(z0 + source * count + at, mask=inside & known, other=0.0)
    noisy = signal * clean + spread * _normals(i, key, tl.load(draw + i), first, BLOCK // 4)
    rounded = _rounded(noisy, out.dtype.element_ty)
    for copy in tl.static_range(COPIES):
        tl.store(out + (copy * rows + i) * count + at, rounded, mask=inside)


@triton.jit
def renoise_score_kernel(
    uncond, cond, z0, row, key, draw, levels, terms, given, count, BLOCK: tl.constexpr
):
    """One program for each row."""
    i = tl.program_id(0).to(tl.int64)
    source = tl.load(row + i)
    known = (source >= 0) & (source < given)
    of_noise = tl.load(levels + 4 * i + 2, mask=known, other=float("nan"))
    of_clean = tl.load(levels + 4 * i + 3)
    step = tl.load(draw + i)
    squared = tl.zeros([BLOCK], tl.float32)
    gap = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        u = tl.load(uncond + i * count + at, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cond + i * count + at, mask=inside, other=0.0).to(tl.float32)
        clean = tl.load(z0 + source * count + at, mask=inside & known, other=0.0)
        target = of_noise * _normals(i, key, step, first, BLOCK // 4) + of_clean * clean
        delta = c - u  # 0 beyond the row's end, and so is all that is summed there
        squared += delta * delta
        gap += delta * ((target - u) + (target - c))
    tl.store(terms + 2 * i, _total(squared))
    tl.store(terms + 2 * i + 1, _total(gap))
