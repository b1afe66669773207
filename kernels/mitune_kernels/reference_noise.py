"""The noise in plain torch: Philox-4x32-10 words and the normals made of them.

This file defines the noise. The normals use only operations that IEEE 754 rounds exactly (add,
subtract, multiply, divide, square root) in a written order, never a library's logarithm or cosine.
So the bits depend on neither the batch nor the library, and the compiled twin in csrc/noise.h,
for any instruction set, gives the same ones.
"""

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def words(key: Tensor, step: Tensor, count: int) -> Tensor:
    """Random words of the elements 0 .. ``count`` - 1 of each row.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Element e is lane e % 4
    of the block whose counter is (e // 4, step, candidate, prompt), under the key (seed_lo,
    seed_hi).

    Args:
        key: ``[B, 4]`` int64: seed_lo, seed_hi, candidate, prompt; the low 32 bits of each count.
        step: ``[B]`` int64; the low 32 bits count.
        count: words per row.

    Returns:
        ``[B, count]`` int64 holding uint32.
    """
    return _blocks(key, step, count).flatten(1)[:, :count]


def normals(key: Tensor, step: Tensor, count: int) -> Tensor:
    """Standard normals of the elements 0 .. ``count`` - 1 of each row, by Box-Muller in float32.

    Words (x0, x1, x2, x3) of a block make four: sqrt(-2 ln u0) times cosine and sine of 2 pi u1,
    then the same of u2 and u3, with u = x 2^-32 + 2^-33.

    Args:
        key: ``[B, 4]`` int64, as in :func:`words`.
        step: ``[B]`` int64.
        count: normals per row.

    Returns:
        ``[B, count]`` float32.
    """
    u = _blocks(key, step, count).to(torch.float32) * 2.0**-32 + 2.0**-33
    # torch's own float32 square root can be a unit off on CPUs; through float64 it is exact.
    radius = (_log(u[..., 0::2]) * -2.0).double().sqrt().float()
    cosine, sine = _circle(u[..., 1::2])
    pairs = torch.stack((radius * cosine, radius * sine), dim=-1)
    return pairs.flatten(1)[:, :count]


def _blocks(key: Tensor, step: Tensor, count: int) -> Tensor:
    """``[B, ceil(count / 4), 4]`` words."""
    seed_lo, seed_hi, candidate, prompt = (key & _WORD).split(1, dim=1)
    block = torch.arange((count + 3) // 4, device=key.device).expand(key.shape[0], -1)
    c0, c1, c2, c3 = torch.broadcast_tensors(block, (step & _WORD)[:, None], candidate, prompt)
    k0, k1 = seed_lo, seed_hi
    for _ in range(_ROUNDS):
        # The 64-bit product may wrap into the sign; the masks below take the same words from it.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def _log(u: Tensor) -> Tensor:
    """Natural logarithm of float32 in [2^-33, 1].

    u = m 2^k with m in [sqrt(1/2), sqrt(2)), and ln m = 2 atanh s, s = (m - 1)/(m + 1), by its
    series: the first dropped term is below a tenth of a rounding.
    """
    i = u.view(torch.int32)
    k = (i - 0x3F3504F3) >> 23
    f = (i - k * 0x800000).view(torch.float32) - 1.0
    s = f / (f + 2.0)
    w = s * s
    series = w * (2 / 3 + w * (2 / 5 + w * (2 / 7 + w * (2 / 9))))
    return k.to(torch.float32) * 0.693147180559945309 + (s * 2.0 + s * series)


def _circle(v: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2 pi v for float32 v in [0, 1].

    The nearest quarter turn is subtracted, which is exact; a Taylor series takes the rest, which is
    within pi/4.
    """
    quarter = (v * 4.0 + 0.5).to(torch.int32)
    x = (v - quarter.to(torch.float32) * 0.25) * 6.28318530717958648
    w = x * x
    s = x + x * (w * (-1 / 6 + w * (1 / 120 + w * (-1 / 5040 + w * (1 / 362880)))))
    c = 1.0 + w * (-0.5 + w * (1 / 24 + w * (-1 / 720 + w * (1 / 40320 + w * (-1 / 3628800)))))
    swap = (quarter & 1) == 1
    along, across = torch.where(swap, s, c), torch.where(swap, c, s)
    cosine = torch.where(((quarter + 1) & 2) == 2, -along, along)
    sine = torch.where((quarter & 2) == 2, -across, across)
    return cosine, sine
