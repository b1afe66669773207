"""Re-noising and the score of its predictions: formulas, bits, layouts, and how torch sees them."""

import math

import pytest
import torch
from kernel_oracles import IMPLS, on_device, random_keys, there
from mitune_kernels import normal, renoise, renoise_score
from torch import Tensor

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
SHAPES = [(4, 8, 8), (1,), (7,), (3, 19, 29), (2, 3, 5, 7), (4, 64, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def inputs(shape: tuple[int, ...] = (4, 8, 8), rows: int = 7) -> Inputs:
    """Rows of three latents, in no order."""
    generator = torch.Generator().manual_seed(len(shape))
    z0 = torch.randn(3, *shape, generator=generator)
    row = torch.randint(3, (rows,), generator=generator)
    key, _ = random_keys(rows)
    return z0, row, key, torch.arange(rows) % 4, torch.randn(rows, 4, generator=generator)


def rows_of(shape: tuple[int, ...]) -> int:
    """Few of the largest, which Triton's interpreter takes seconds for."""
    return 7 if math.prod(shape) < 4096 else 2


def predictions(shape: tuple[int, ...], dtype: torch.dtype, rows: int = 7) -> tuple[Tensor, Tensor]:
    uncond, cond = torch.randn(2, rows, *shape, generator=torch.Generator().manual_seed(1))
    return uncond.to(dtype), cond.to(dtype)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_latents_are_the_keyed_noise_and_the_clean_ones(
    impl: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    z0, row, key, draw, levels = inputs(shape, rows_of(shape))
    scale = levels.view(len(row), 4, *[1] * len(shape))
    expected = scale[:, 0] * z0[row] + scale[:, 1] * there(
        normal, key, draw, shape, impl="reference"
    )
    for copies in (1, 2):
        got = there(renoise, z0, row, key, draw, levels, dtype=dtype, copies=copies, impl=impl)
        assert got.dtype == dtype
        assert torch.equal(got, torch.cat([expected.to(dtype)] * copies))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_score_follows_its_formulas(
    impl: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """In float64, as two squared errors; within the rounding of float32 sums (see step_in_float64)
    of parts that each carry 6 roundings and the noise's 1e-6."""
    z0, row, key, draw, levels = inputs(shape, rows_of(shape))
    uncond, cond = predictions(shape, dtype, len(row))
    got = there(renoise_score, uncond, cond, z0, row, key, draw, levels, impl=impl)
    noise = there(normal, key, draw, shape, impl="reference").double().flatten(1)
    clean, u, c = z0[row].double().flatten(1), uncond.double().flatten(1), cond.double().flatten(1)
    of_noise, of_clean = levels.double()[:, 2:3], levels.double()[:, 3:]
    target = of_noise * noise + of_clean * clean
    exact = torch.stack(
        (((c - u) ** 2).sum(1), ((target - u) ** 2 - (target - c) ** 2).sum(1)), dim=1
    )
    count = clean.shape[1]
    chunks = (count + 1023) // 1024
    depth = 6 + max(32 + 5 + (chunks - 1).bit_length(), chunks + 10)
    parts = (of_noise * noise).abs() + (of_clean * clean).abs()
    gap = (c - u).abs() * (2 * parts + u.abs() + c.abs())
    budget = depth * 2.0**-24 * torch.stack((((c - u) ** 2).sum(1), gap.sum(1)), dim=1)
    assert ((got.double() - exact).abs() <= budget).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.skipif("cpp" not in IMPLS, reason="the C++ extension is not built")
def test_cpp_and_reference_give_the_same_bits(shape: tuple[int, ...]) -> None:
    arguments = (*predictions(shape, torch.bfloat16), *inputs(shape))
    assert torch.equal(
        there(renoise_score, *arguments, impl="cpp"),
        there(renoise_score, *arguments, impl="reference"),
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_has_the_same_bits_in_any_batch(impl: str) -> None:
    z0, *rest = inputs((3, 19, 29))
    uncond, cond = predictions((3, 19, 29), torch.float32)
    noisy = there(renoise, z0, *rest, copies=1, impl=impl)
    terms = there(renoise_score, uncond, cond, z0, *rest, impl=impl)
    for i in range(7):
        one = [t[i : i + 1] for t in rest]
        assert torch.equal(there(renoise, z0, *one, copies=1, impl=impl)[0], noisy[i])
        alone = there(renoise_score, uncond[i : i + 1], cond[i : i + 1], z0, *one, impl=impl)
        assert torch.equal(alone[0], terms[i])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", [0, 3])
def test_registration(impl: str, rows: int) -> None:
    arguments = inputs(rows=rows)
    check, names = torch.library.opcheck, torch.ops.mitune
    check(getattr(names, f"renoise_{impl}").default, on_device(impl, *arguments, torch.bfloat16, 2))
    pair = predictions((4, 8, 8), torch.float16, rows)
    check(getattr(names, f"renoise_score_{impl}").default, on_device(impl, *pair, *arguments))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("given", [0, 3])
def test_no_rows_are_valid(impl: str, given: int) -> None:
    z0, *rest = inputs(rows=0)
    uncond, cond = predictions((4, 8, 8), torch.float32, 0)
    assert there(renoise, z0[:given], *rest, impl=impl).shape == (0, 4, 8, 8)
    assert there(renoise_score, uncond, cond, z0[:given], *rest, impl=impl).shape == (0, 2)


@pytest.mark.parametrize("impl", [name for name in IMPLS if name != "cpp"])
def test_a_latent_that_does_not_exist_gives_nan(impl: str) -> None:
    """Where looking at its number would wait for the device; cpp refuses it."""
    z0, row, *rest = inputs()
    row[1], row[4] = 3, -1
    outside = [i in (1, 4) for i in range(7)]
    moved = on_device(impl, z0, row, *rest)
    names = torch.ops.mitune
    noisy = getattr(names, f"renoise_{impl}")(*moved, torch.float32, 1)
    assert [bool(latent.isnan().all()) for latent in noisy] == outside
    assert [bool(latent.isnan().any()) for latent in noisy] == outside
    pair = on_device(impl, *predictions((4, 8, 8), torch.float32))
    terms = getattr(names, f"renoise_score_{impl}")(*pair, *moved)
    assert terms[:, 1].isnan().tolist() == outside


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_compiles_without_a_graph_break(impl: str) -> None:
    def estimate(z0: Tensor, *rest: Tensor) -> Tensor:
        uncond, cond = renoise(z0, *rest, impl=impl).sin().chunk(2)
        return renoise_score(uncond, 2 * cond, z0, *rest, impl=impl)

    compiled = torch.compile(estimate, fullgraph=True, backend="aot_eager")
    arguments = on_device(impl, *inputs())
    assert torch.equal(compiled(*arguments), estimate(*arguments))


def test_wrong_arguments_are_refused() -> None:
    names = ("z0", "row", "key", "draw", "levels")
    good = dict(zip(names, inputs(), strict=True))
    for name, value, message in (
        ("z0", good["z0"].half(), r"z0: got torch\.float16, expected torch\.float32"),
        ("z0", good["z0"][:, :, 0, 0][:, 0], r"z0: got shape \[3\], expected \[rows, \.\.\.\]"),
        ("z0", good["z0"].transpose(1, 2), "z0: got strides .* expected a contiguous tensor"),
        ("row", torch.tensor([0, 1, 3, 0, 0, 0, 0]), "row: got 3, expected 0 to 2"),
        ("row", torch.tensor([0, 1, -1, 0, 0, 0, 0]), "row: got -1, expected 0 to 2"),
        ("key", good["key"][:2], r"key: got shape \[2, 4\], expected \[7, 4\]"),
        ("draw", good["draw"].int(), r"draw: got torch\.int32, expected torch\.int64"),
        ("levels", good["levels"] / 0, "levels: got a value that is not finite"),
        ("z0", good["z0"][:0], "z0: got no rows, expected those that the 7 of row name"),
        ("dtype", torch.float64, r"dtype: got torch\.float64, expected one of"),
        ("copies", 3, "copies: got 3, expected 1 or 2"),
        ("impl", "cudnn", "impl: got 'cudnn', expected one of auto"),
    ):
        with pytest.raises(ValueError, match=message):
            renoise(**{**good, name: value})  # type: ignore[arg-type]
    uncond, cond = predictions((4, 8, 8), torch.float32)
    for pair, message in (
        ((uncond.double(), cond), r"eps_uncond: got torch\.float64"),
        ((uncond, cond.half()), r"eps_cond: got torch\.float16, expected torch\.float32"),
        ((uncond, cond[:3]), r"eps_cond: got shape \[3, 4, 8, 8\], expected \[7, 4, 8, 8\]"),
        ((uncond.clone().requires_grad_(), cond), "eps_uncond: got a tensor that requires grad"),
    ):
        with pytest.raises(ValueError, match=message):
            renoise_score(*pair, *inputs())
