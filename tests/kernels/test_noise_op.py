"""The noise: known integers, the normal distribution, and sameness of implementations."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kernel_oracles import (
    IMPLS,
    NORMAL_ROUNDINGS,
    WORD,
    box_muller_in_float64,
    on_device,
    philox_by_integers,
    random_keys,
    there,
)
from mitune_kernels import normal, philox
from mitune_kernels.reference_noise import _circle, _log
from torch import Tensor

# Counter, key and output of the Random123 distribution's known-answer tests (kat_vectors).
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([WORD] * 4, [WORD] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_independent_philox_gives_the_published_vectors(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    assert philox_by_integers(counter, key) == expected


@pytest.mark.parametrize("impl", IMPLS)
def test_words_equal_the_independent_philox(impl: str) -> None:
    key, step = random_keys(3)
    key[1], step[1] = WORD, WORD
    key[2], step[2] = 0, 0
    words = there(philox, key, step, 4099, impl=impl)
    assert words.dtype == torch.int64
    assert words[2, :4].tolist() == KNOWN[0][2]
    for row in range(3):
        seed_lo, seed_hi, candidate, prompt = key[row].tolist()
        for block in (0, 1, 255, 256, 1023, 1024):
            counter = [block, int(step[row]), candidate, prompt]
            expected = philox_by_integers(counter, [seed_lo, seed_hi])[: 4099 - 4 * block]
            assert words[row, 4 * block : 4 * block + 4].tolist() == expected


@pytest.mark.parametrize("impl", [name for name in IMPLS if name != "reference"])
@pytest.mark.parametrize("count", [1, 3, 256, 1024, 1025, 5003])
def test_all_give_the_bits_of_the_reference(impl: str, count: int) -> None:
    key, step = random_keys(17)
    for draw in (philox, lambda k, s, n, impl: normal(k, s, (n,), impl=impl)):
        expected = draw(key, step, count, impl="reference")
        assert torch.equal(there(draw, key, step, count, impl=impl), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_normals_follow_box_muller(impl: str) -> None:
    key, step = random_keys(32, seed=1)
    expected, radius = box_muller_in_float64(philox(key, step, 16384).numpy())
    got = there(normal, key, step, (16384,), impl=impl).numpy()
    assert (np.abs(got - expected) <= NORMAL_ROUNDINGS * 2.0**-24 * radius).all()


def test_logarithm_and_circle_keep_the_budget_over_all_uniforms() -> None:
    """Every 64th float32 there is, and the ends, which no search of keys would find.

    The compiled functions, which are reached through keys only, have the same bits.
    """
    ends = torch.tensor([2.0**-33, 2.0**-33 * 3, 0.5, math.nextafter(0.5, 1), 1 - 2.0**-24, 1.0])
    first, last = (int(ends[i].view(torch.int32)) for i in (0, -1))
    u = torch.cat((ends, torch.arange(first, last, 64, dtype=torch.int32).view(torch.float32)))
    exact = np.log(u.numpy().astype(np.float64))
    assert (np.abs(_log(u).numpy() - exact) <= 3 * 2.0**-24 * np.abs(exact)).all()
    cosine, sine = _circle(u)
    angle = 2 * np.pi * u.numpy().astype(np.float64)
    assert np.abs(cosine.numpy() - np.cos(angle)).max() <= 2.5 * 2.0**-24
    assert np.abs(sine.numpy() - np.sin(angle)).max() <= 2.5 * 2.0**-24


@pytest.fixture(scope="module")
def ten_million() -> np.ndarray:
    """Of many keys and all steps of a run, as sampling draws them; all implementations have these
    bits."""
    key, _ = random_keys(611, seed=2)
    return normal(key, torch.arange(611) % 51, (16387,)).double().numpy()


def test_moments_are_those_of_a_normal(ten_million: np.ndarray) -> None:
    """Each within five standard errors: Var x^k = E x^2k - (E x^k)^2."""
    x, n = ten_million.ravel(), ten_million.size
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) <= 5 * math.sqrt(variance / n)


def test_distribution_is_normal_by_kolmogorov_smirnov(ten_million: np.ndarray) -> None:
    x = np.sort(ten_million.ravel())
    cdf = 0.5 * (1 + torch.erf(torch.from_numpy(x) / math.sqrt(2)).numpy())
    ranks = np.arange(x.size + 1) / x.size
    distance = max((ranks[1:] - cdf).max(), (cdf - ranks[:-1]).max())
    # Exceeded with probability 2 exp(-2 * 2.2^2) = 1e-4.
    assert distance <= 2.2 / math.sqrt(x.size)


def test_elements_rows_and_steps_are_uncorrelated(ten_million: np.ndarray) -> None:
    """Lags within a block, across blocks and chunks; neighbouring rows (other key and step)."""
    for lag in (1, 2, 3, 4, 5, 1024):
        product = ten_million[:, :-lag] * ten_million[:, lag:]
        assert abs(product.mean()) <= 5 / math.sqrt(product.size)
    product = ten_million[:-1] * ten_million[1:]
    assert abs(product.mean()) <= 5 / math.sqrt(product.size)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("column", [0, 1, 2, 3, "step"])
def test_every_part_of_the_key_changes_the_noise(impl: str, column: int | str) -> None:
    key, step = random_keys(1)
    other_key, other_step = key.clone(), step.clone()
    if column == "step":
        other_step ^= 1
    else:
        other_key[:, column] ^= 1
    first, second = (
        there(normal, key, step, (64,), impl=impl),
        there(normal, other_key, other_step, (64,), impl=impl),
    )
    assert (first == second).sum() == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_has_the_same_bits_in_any_batch(impl: str) -> None:
    key, step = random_keys(13)
    together = there(normal, key, step, (3, 19, 29), impl=impl)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        there(normal, key[order], step[order], (3, 19, 29), impl=impl), together[order]
    )
    for row in range(13):
        alone = there(normal, key[row : row + 1], step[row : row + 1], (3, 19, 29), impl=impl)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_longer_row_begins_with_a_shorter_one(impl: str) -> None:
    key, step = random_keys(2)
    assert torch.equal(
        there(normal, key, step, (2051,), impl=impl)[:, :77],
        there(normal, key, step, (77,), impl=impl),
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_no_rows_and_no_elements_are_valid(impl: str) -> None:
    key, step = random_keys(2)
    assert there(normal, key[:0], step[:0], (4, 8, 8), impl=impl).shape == (0, 4, 8, 8)
    assert there(philox, key, step, 0, impl=impl).shape == (2, 0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", [0, 3])
def test_registration(impl: str, rows: int) -> None:
    key, step = random_keys(rows)
    for name in ("philox", "normal"):
        torch.library.opcheck(
            getattr(torch.ops.mitune, f"{name}_{impl}").default, on_device(impl, key, step, 11)
        )


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_compiles_without_a_graph_break(impl: str) -> None:
    key, step = random_keys(3)

    def scaled(key: Tensor, step: Tensor) -> Tensor:
        return 2 * normal(key, step, (4, 8), impl=impl)

    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(
        scaled, fullgraph=True, backend="aot_eager"
    )
    key, step = on_device(impl, key, step)
    assert torch.equal(compiled(key, step), scaled(key, step))


def test_wrong_arguments_are_refused() -> None:
    key, step = random_keys(3)
    for bad_key, bad_step, message in (
        (key.int(), step, "key: got torch.int32, expected torch.int64"),
        (key[:, :3].contiguous(), step, r"key: got shape \[3, 3\], expected \[3, 4\]"),
        (key[:2], step, r"key: got shape \[2, 4\], expected \[3, 4\]"),
        (key, step.float(), "step: got torch.float32, expected torch.int64"),
        (key, step[:, None], r"step: got shape \[3, 1\], expected \[3\]"),
        (key.T.contiguous().T, step, "key: got strides"),
        (key.to("meta"), step, "key: got a tensor on meta, expected cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            normal(bad_key, bad_step, (4,))
    with pytest.raises(ValueError, match=r"step: got shape \[\], expected"):
        normal(key[0, 0], step[0], (4,))
    with pytest.raises(ValueError, match=r"shape: got \[-1, -4\], expected sizes of at least 0"):
        normal(key, step, (-1, -4))
    with pytest.raises(ValueError, match="count: got -1, expected 0 to"):
        philox(key, step, -1)
    with pytest.raises(ValueError, match="impl: got 'fast', expected one of auto, reference, cpp"):
        philox(key, step, 1, impl="fast")
