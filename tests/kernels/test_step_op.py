"""The solver step: its formulas, layouts, idle rows, sameness of bits, and how torch sees it."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from kernel_oracles import IMPLS, on_device, random_keys, step_in_float64, there
from mitune_kernels import step, step_out
from torch import Tensor
from torch.autograd import forward_ad

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float]
SHAPES = [(4, 8, 8), (1, 1), (7,), (3, 19, 29), (4, 16, 17), (2, 3, 5, 7)]
cpp_built = pytest.mark.skipif("cpp" not in IMPLS, reason="the C++ extension is not built")


def inputs(
    rows: int = 5,
    shape: tuple[int, ...] = (4, 8, 8),
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Inputs:
    """Random rows at steps 0, 1, ... of a random table whose row 1 adds no noise; row 2 is idle."""
    generator = torch.Generator().manual_seed(rows + 31 * len(shape))
    uncond, cond, z = torch.randn(3, rows, *shape, generator=generator)
    uncond, cond = uncond.to(dtype), cond.to(dtype)
    if channels_last:
        uncond, cond = (t.contiguous(memory_format=torch.channels_last) for t in (uncond, cond))
    table = torch.randn(6, 5, generator=generator)
    table[1, 2] = 0.0
    index = torch.arange(rows) % 6
    index[2::6] = -1
    score = torch.randn(rows, generator=generator)
    key, _ = random_keys(rows)
    return uncond, cond, z, score, index, key, table, 7.5


def same(first: Iterable[Tensor | None], second: Iterable[Tensor | None]) -> bool:
    """To the bit, in dtype too; what neither has is left out."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if (a, b) != (None, None)]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_follows_the_formulas(impl: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    *arguments, _ = inputs(7, shape, dtype)
    arguments.append(7.1)  # which float32 has to round
    expected, budget = step_in_float64(*arguments)
    for got, exact, allowed in zip(
        there(step, *arguments, impl=impl)[:3], expected, budget, strict=True
    ):
        assert got.dtype == torch.float32
        assert ((got.double() - exact).abs() <= allowed).all()


@cpp_built
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpp_and_reference_give_the_same_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    arguments = inputs(7, shape, dtype)
    assert same(there(step, *arguments, impl="cpp"), there(step, *arguments, impl="reference"))


@pytest.mark.parametrize("impl", IMPLS)
def test_follows_the_formulas_in_rows_of_stable_diffusions_size(impl: str) -> None:
    test_follows_the_formulas(impl, torch.bfloat16, (4, 64, 64))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 19, 29), (1, 5, 6), (5, 1, 1)])
def test_layout_changes_no_bit(impl: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    plain = there(step, *inputs(7, shape, dtype), impl=impl)
    uncond, cond, z, *rest = inputs(7, shape, dtype, channels_last=True)
    assert same(there(step, uncond, cond, z, *rest, impl=impl), plain)
    z = z.contiguous(memory_format=torch.channels_last)
    result = there(step, uncond, cond, z, *rest, impl=impl)
    assert same(result, plain)
    assert result[0].stride() == z.stride()
    halves = torch.cat((uncond, cond)).chunk(2)
    assert same(there(step, *halves, z, *rest, impl=impl), plain)


@pytest.mark.parametrize("impl", IMPLS)
def test_layout_changes_no_bit_of_videos_either(impl: str) -> None:
    plain = inputs(7, (2, 3, 5, 7))
    last = [t.contiguous(memory_format=torch.channels_last_3d) for t in plain[:3]]
    expected = there(step, *plain, impl=impl)
    for chosen in ((0, 1, 2), (1,), (2,)):
        mixed = [last[i] if i in chosen else plain[i] for i in range(3)]
        assert same(there(step, *mixed, *plain[3:], impl=impl), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_an_idle_row_is_left_alone_whatever_it_predicts(impl: str) -> None:
    uncond, cond, z, score, index, key, table, guidance = inputs()
    uncond[2], cond[2] = float("nan"), float("inf")
    z_next, score_next, terms, _ = there(
        step, uncond, cond, z, score, index, key, table, guidance, impl=impl
    )
    assert torch.equal(z_next[2], z[2])
    assert torch.equal(score_next[2], score[2])
    assert terms[2].tolist() == [0.0, 0.0]
    assert z_next.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_what_is_not_finite_shows_in_its_own_score_only(impl: str) -> None:
    uncond, cond, *rest = inputs()
    cond[3, 0, 0, 0] = float("inf")
    score_next = there(step, uncond, cond, *rest, impl=impl)[1]
    assert score_next.isfinite().tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 19, 29)])
def test_a_row_has_the_same_bits_in_any_batch(impl: str, shape: tuple[int, ...]) -> None:
    *rows, table, guidance = inputs(13, shape)
    together = there(step, *rows, table, guidance, impl=impl)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    shuffled = there(step, *(t[order] for t in rows), table, guidance, impl=impl)
    assert same(shuffled[:3], (t[order] for t in together[:3]))
    for row in range(13):
        alone = there(step, *(t[row : row + 1] for t in rows), table, guidance, impl=impl)
        assert same(alone[:3], (t[row : row + 1] for t in together[:3]))


@pytest.mark.parametrize("impl", ["reference", "cpp"])  # the others have no threads of torch's
def test_threads_change_no_bit(impl: str) -> None:
    arguments = inputs(40, (4, 32, 32))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = there(step, *arguments, impl=impl)
        torch.set_num_threads(3)
        assert same(there(step, *arguments, impl=impl), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("impl", IMPLS)
def test_no_rows_are_valid(impl: str) -> None:
    arguments = inputs()
    empty = (*(t[:0] for t in arguments[:6]), *arguments[6:])
    assert [t.shape for t in there(step, *empty, impl=impl)[:3]] == [(0, 4, 8, 8), (0,), (0, 2)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_out_form_fills_the_given_buffers(impl: str, channels_last: bool) -> None:
    arguments = inputs()
    expected = there(step, *arguments, impl=impl)
    form = torch.channels_last if channels_last else torch.contiguous_format
    z_next = torch.empty_like(arguments[2], memory_format=form)
    buffers = z_next, torch.empty_like(arguments[3]), torch.empty(5, 2)
    there(step_out, *arguments, *buffers, impl=impl)
    assert same(buffers, expected[:3])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_out_form_may_write_over_z_and_score(impl: str, channels_last: bool) -> None:
    arguments = inputs(7, (3, 19, 29))
    expected = there(step, *arguments, impl=impl)
    uncond, cond, z, score, *rest = arguments
    form = torch.channels_last if channels_last else torch.contiguous_format
    z, terms = z.contiguous(memory_format=form), torch.empty(7, 2)
    there(step_out, uncond, cond, z, score, *rest, z, score, terms, impl=impl)
    assert same((z, score, terms), expected[:3])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_models_next_input_is_the_rounded_latent(
    impl: str, dtype: torch.dtype, copies: int
) -> None:
    for shape in ((3, 19, 29), (4, 8, 8), (7,)):
        arguments = inputs(7, shape)
        result = there(step, *arguments, input_dtype=dtype, copies=copies, impl=impl)
        assert same(result[:3], there(step, *arguments, impl=impl)[:3])
        assert result.model_input is not None
        assert same([result.model_input], [torch.cat([result.z.to(dtype)] * copies)])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_loop_on_the_buffers_alone(impl: str, copies: int, channels_last: bool) -> None:
    """Six steps in place, of rows that began at different steps, against the functional form."""
    uncond, cond, z, score, index, key, table, guidance = inputs(7, channels_last=channels_last)
    form = torch.channels_last if channels_last else torch.contiguous_format
    model_input = torch.cat([z.bfloat16()] * copies).contiguous(memory_format=form)
    t = torch.full((copies * 7,), -7.0)
    history = torch.full((7, 6, 2), -1.0)
    now, scores, at = z.clone(memory_format=form), score.clone(), index.clone()
    idle_input = torch.full((4, 8, 8), 3.0).bfloat16()
    model_input[2] = idle_input  # must stay
    expected_history = history.clone()
    for _ in range(6):
        ran = index >= 0
        there(step_out, 
            uncond, cond, now, scores, at, key, table, guidance, now, scores, history,
            model_input=model_input, index_next=at, t_next=t, impl=impl,
        )  # fmt: skip
        z, score, terms, _ = there(
            step, uncond, cond, z, score, index, key, table, guidance, impl=impl
        )
        expected_history[ran, index[ran]] = terms[ran]
        index = torch.where(ran & (index < 5), index + 1, -1)
        assert same((now, scores, at, history), (z, score, index, expected_history))
        for half in model_input.unflatten(0, (copies, 7)):
            assert same([half[ran]], [z[ran].bfloat16()])
        for half in t.view(copies, 7):
            assert same([half[index >= 0]], [table[index[index >= 0], 4]])
    assert same([model_input[2]], [idle_input])
    assert t[2] == -7.0
    assert (at == -1).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_an_idle_row_of_another_buffer_is_carried_over(impl: str) -> None:
    arguments = inputs()
    result = there(step, *arguments, input_dtype=torch.float16, impl=impl)
    assert result.model_input is not None
    assert torch.equal(result.model_input[2], arguments[2][2].half())
    assert torch.equal(result.model_input[7], arguments[2][2].half())


@pytest.mark.parametrize("impl", [name for name in IMPLS if name != "cpp"])
def test_an_index_outside_the_table_gives_nan(impl: str) -> None:
    """Where looking at the index would wait for the device; cpp refuses it."""
    arguments = inputs()
    arguments[4][0], arguments[4][4] = 6, -7
    outside = [True, False, False, False, True]
    operation = getattr(torch.ops.mitune, f"step_{impl}")
    for result in operation(*on_device(impl, *arguments, torch.float16, 1)):
        assert [bool(row.isnan().all()) for row in result] == outside
    history, at = torch.zeros(5, 6, 2), arguments[4].clone()
    scores, t = arguments[3].clone(), torch.full((5,), -3.0)
    moved = on_device(impl, *arguments, arguments[2], scores, history, None, at, t)
    getattr(torch.ops.mitune, f"step_out_{impl}")(*moved)
    assert moved[12].tolist() == [-1, 2, -1, 4, -1]
    assert moved[9].isnan().tolist() == outside
    assert moved[10].isfinite().all()  # there is no place for their terms
    assert moved[13].cpu()[outside].tolist() == [-3.0, -3.0]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("rows", "shape", "dtype", "channels_last"),
    [
        (3, (4, 8, 8), torch.float32, False),
        (3, (3, 5, 7), torch.bfloat16, True),
        (0, (4, 8, 8), torch.float16, False),
    ],
)
def test_registration(
    impl: str, rows: int, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
) -> None:
    arguments = inputs(rows, shape, dtype, channels_last)
    torch.library.opcheck(
        getattr(torch.ops.mitune, f"step_{impl}").default, on_device(impl, *arguments, None, 2)
    )
    torch.library.opcheck(
        getattr(torch.ops.mitune, f"step_{impl}").default,
        on_device(impl, *arguments, torch.bfloat16, 2),
    )
    buffers = torch.zeros(rows, *shape), torch.zeros(rows), torch.zeros(rows, 2)
    out = getattr(torch.ops.mitune, f"step_out_{impl}").default
    torch.library.opcheck(out, on_device(impl, *arguments, *buffers, None, None, None))
    model_input = torch.zeros(2 * rows, *shape, dtype=torch.float16)
    loop = model_input, torch.zeros(rows, dtype=torch.int64), torch.zeros(2 * rows)
    torch.library.opcheck(out, on_device(impl, *arguments, *buffers, *loop))


@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_compiles_without_a_graph_break_or_a_recompilation(impl: str) -> None:
    def tick(uncond: Tensor, cond: Tensor, z: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        z_next, score_next, terms, _ = step(uncond * 1.0, cond, z, *rest, 7.5, impl=impl)
        return z_next + 0.0, score_next, terms

    compiled = torch.compile(tick, fullgraph=True, backend="aot_eager", dynamic=True)
    # Not 5 rows: dimensions of one size are taken to be one, and a table has 5 columns.
    first, second = (on_device(impl, *inputs(rows)[:-1]) for rows in (7, 9))
    assert same(compiled(*first), tick(*first))
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert same(compiled(*second), tick(*second))


def test_wrong_arguments_are_refused() -> None:
    names = ("eps_uncond", "eps_cond", "z", "score", "index", "key", "table", "guidance")
    good = dict(zip(names, inputs(), strict=True))
    uncond, z, key, table = (good[name] for name in ("eps_uncond", "z", "key", "table"))
    nan_table = table.clone()
    nan_table[3, 3] = float("nan")
    for name, value, message in (
        ("eps_uncond", uncond.double(), "eps_uncond: got torch.float64, expected torch.float32 or"),
        ("eps_uncond", uncond[:4], r"eps_uncond: got shape \[4, 4, 8, 8\], expected z's \[5, 4"),
        ("eps_cond", uncond.half(), "eps_cond: got torch.float16, expected torch.float32"),
        (
            "eps_cond",
            uncond.transpose(2, 3),
            "eps_cond: got strides .* contiguous or channels-last",
        ),
        ("eps_cond", uncond.to("meta"), "eps_cond: got a tensor on meta, expected cpu"),
        ("eps_cond", uncond.clone().requires_grad_(), "eps_cond: got a tensor that requires grad"),
        ("z", z.half(), "z: got torch.float16, expected torch.float32"),
        ("z", z[:, 0, 0, 0], r"z: got shape \[5\], expected \[rows, \.\.\.\]"),
        ("score", torch.zeros(4), r"score: got shape \[4\], expected \[5\]"),
        ("index", torch.zeros(5), "index: got torch.float32, expected torch.int64"),
        ("index", torch.tensor([0, 1, 6, 0, 0]), "index: got 6, expected -1 to 5"),
        ("index", torch.tensor([0, 1, -2, 0, 0]), "index: got -2, expected -1 to 5"),
        ("key", key[:, :2].contiguous(), r"key: got shape \[5, 2\], expected \[5, 4\]"),
        ("table", table[:0], r"table: got shape \[0, 5\], expected \[N, 5\] with N > 0"),
        ("table", nan_table, "table: got a value that is not finite"),
        *(
            ("guidance", wrong, "guidance: got .*, expected a finite number")
            for wrong in (float("inf"), float("nan"), 1e39, 10**400, None, "7.5", torch.ones(()))
        ),
    ):
        with pytest.raises(ValueError, match=message):
            step(**{**good, name: value})
    with pytest.raises(ValueError, match=r"z_next: got torch\.float64"):
        step_out(**good, z_next=z.double(), score_next=torch.zeros(5), terms=torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"input_dtype: got torch\.float64, expected one of"):
        step(**good, input_dtype=torch.float64)
    with pytest.raises(ValueError, match="copies: got 3, expected 1 or 2"):
        step(**good, input_dtype=torch.float16, copies=3)
    out = {**good, "z_next": z, "score_next": torch.zeros(5), "terms": torch.zeros(5, 2)}
    for name, value, message in (
        ("model_input", torch.zeros(7, 4, 8, 8), r"z's \[5, 4, 8, 8\] or \[10, 4, 8, 8\]"),
        ("model_input", torch.zeros(5, 4, 8, 8).double(), "model_input: got torch.float64"),
        ("index_next", torch.zeros(5), "index_next: got torch.float32, expected torch.int64"),
        ("t_next", torch.zeros(7), r"t_next: got shape \[7\], expected \[5\]"),
        ("terms", torch.zeros(5, 3, 2), r"terms: got shape \[5, 3, 2\], expected \[5, 6, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            step_out(**{**out, name: value})
    with pytest.raises(ValueError, match=r"terms: got shape \[5\], expected \[5, 2\]"):
        step_out(**good, z_next=z, score_next=torch.zeros(5), terms=torch.zeros(5))


def test_buffers_that_share_memory_are_refused() -> None:
    uncond, cond, z, score, index, key, table, guidance = inputs()
    pool = torch.randn(6, 4, 8, 8)
    halves = torch.zeros(6)
    good: dict[str, Any] = {
        "eps_uncond": uncond, "eps_cond": cond, "z": z, "score": score, "index": index,
        "key": key, "table": table, "guidance": guidance, "z_next": torch.zeros(5, 4, 8, 8),
        "score_next": torch.zeros(5), "terms": torch.zeros(5, 2),
    }  # fmt: skip
    last = z.contiguous(memory_format=torch.channels_last)
    for changes, message in (
        ({"z": pool[:5], "z_next": pool[1:]}, "z_next: shares memory with z"),
        ({"z_next": uncond}, "z_next: shares memory with eps_uncond"),
        ({"score": halves[:5], "score_next": halves[1:]}, "score_next: shares memory with score"),
        ({"model_input": z}, "model_input: shares memory with z"),
        (
            {"z": last, "z_next": last.permute(0, 2, 3, 1).view(5, 4, 8, 8)},
            "z_next: shares memory with z",
        ),
        ({"z_next": good["z_next"], "model_input": good["z_next"]}, "z_next: .* model_input"),
        ({"score_next": good["terms"].view(-1)[:5]}, "score_next: shares memory with terms"),
    ):
        with pytest.raises(ValueError, match=message):
            step_out(**(good | changes))
    step_out(**(good | {"z_next": z, "score_next": score, "index_next": index}))
    step_out(**(good | {"eps_uncond": cond}))  # what is only read may be one and the same


@pytest.mark.parametrize("impl", IMPLS)
def test_autograd_sees_that_a_buffer_changed(impl: str) -> None:
    uncond, cond, z, score, *rest = on_device(impl, *inputs())
    weight = torch.ones_like(z).requires_grad_()
    product = (weight * z).sum()
    terms = z.new_empty(5, 2)
    buffers = z, score, terms
    before = [buffer._version for buffer in buffers]
    step_out(uncond, cond, z, score, *rest, z, score, terms, impl=impl)
    assert all(x._version > version for x, version in zip(buffers, before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_tangent_is_not_lost() -> None:
    uncond, cond, z, *rest = inputs()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(z, torch.ones_like(z))
        with pytest.raises(ValueError, match="z: got a tensor that requires grad"):
            step(uncond, cond, dual, *rest)
        step(uncond, cond, z, *rest)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_loop_in_place(backend: str) -> None:
    """The out form under both compilers, with guidance as an argument that changes."""
    impl = "auto"

    def tick(guidance: float, z: Tensor, score: Tensor, index: Tensor, terms: Tensor) -> None:
        step_out(
            uncond * 1.0, cond, z, score, index, key, table, guidance, z, score, terms,
            index_next=index, impl=impl,
        )  # fmt: skip

    uncond, cond, z, score, index, key, table, _ = inputs(7)
    compiled: Callable[..., None] = torch.compile(tick, fullgraph=True, backend=backend)
    for guidance in (7.5, 3.0, 1.5):
        state = [z, score, index, torch.zeros(7, 6, 2)]
        own, expected = ([t.clone() for t in state] for _ in range(2))
        compiled(guidance, *own)
        tick(guidance, *expected)
        assert same(own, expected)


def test_a_table_is_looked_at_again_when_it_changed() -> None:
    arguments = inputs()
    step(*arguments)
    arguments[6][0, 0] = float("nan")
    with pytest.raises(ValueError, match="table: got a value that is not finite"):
        step(*arguments)


@cpp_built
def test_the_compiled_operation_guards_memory_on_its_own() -> None:
    """Compiled code and direct calls go past the public function's checks."""
    uncond, cond, z, score, index, key, table, guidance = inputs()
    index[0] = 6
    with pytest.raises(RuntimeError, match="index: expected -1 to 5, got 6"):
        torch.ops.mitune.step_cpp(uncond, cond, z, score, index, key, table, guidance, None, 2)
    with pytest.raises(RuntimeError, match="expected one shape"):
        torch.ops.mitune.step_cpp(uncond[:2], cond, z, score, index, key, table, guidance, None, 2)
