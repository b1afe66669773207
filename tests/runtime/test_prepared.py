"""The prepared UNet against the plain one, and what it compiles."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from tiny_model import TinyModel, config, scramble
from torch._dynamo.utils import counters

from mitune.adapters import adapter, network
from mitune.adapters.merge import merged_weights
from mitune.core.errors import UserError
from mitune.runtime.attention import set_attention
from mitune.runtime.backends import PerCore
from mitune.runtime.cpu_workers import undisturbed
from mitune.runtime.prepared import Prepared, share_projections

TEXTS = ["a red circle", "a blue square", ""]


def call(denoise, model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, 4, 8, 8, generator=generator).to(dtype)
    t = torch.tensor([1.0, 500.0, 981.0])
    with torch.no_grad():
        return denoise(z, t, denoise.encode_prompts(TEXTS))


@pytest.mark.parametrize("method", [None, "lora", "dora"])
def test_it_predicts_what_the_model_does(method):
    """In float64 to rounding: the adapter merged, the projections shared."""
    model = TinyModel()
    if method:
        adapter.attach(model, config(method=method))
        scramble(model.unet)
    prepared = Prepared(model)
    torch.testing.assert_close(call(prepared, model), call(model, model), rtol=1e-4, atol=1e-5)
    unet = copy.deepcopy(model.unet).double()
    weights = merged_weights(unet)
    exact = copy.deepcopy(unet)
    network.remove_adapter(exact)
    exact.load_state_dict(weights)
    projections = share_projections(exact)
    hidden = model.encode_prompts(TEXTS)["encoder_hidden_states"].double()
    joined = torch.cat([projection(hidden) for projection in projections], dim=-1)
    z, t = torch.randn(3, 4, 8, 8, dtype=torch.float64), torch.tensor([1.0, 500.0, 981.0])
    with torch.no_grad():
        plain = unet(z, t, hidden, return_dict=False)[0]
        shared = exact(z, t, joined, return_dict=False)[0]
    torch.testing.assert_close(shared, plain, rtol=1e-9, atol=1e-11)


def test_the_model_is_left_as_it_was_and_may_be_trained_on():
    model = TinyModel()
    adapter.attach(model, config())
    before, names = model.predict(), list(model.unet.state_dict())
    Prepared(model)
    assert torch.equal(model.predict(), before)
    assert list(model.unet.state_dict()) == names
    assert all(p.requires_grad for p in adapter.parameters(model).values())


def test_nothing_is_projected_again():
    """No cross-attention computes keys or values in a call: the linear layers left are fewer by two
    for each."""
    model = TinyModel()
    prepared = Prepared(model)
    wide = prepared.encode_prompts(TEXTS)["encoder_hidden_states"]
    assert wide.shape == (3, 3, sum(p.out_features for p in prepared._projections))
    called = []
    for projection in prepared._projections:
        projection.register_forward_hook(lambda *_: called.append(1))
    prepared(torch.randn(3, 4, 8, 8), torch.ones(3), {"encoder_hidden_states": wide})
    assert not called
    assert len(prepared._projections) == 2 * sum(
        getattr(m, "is_cross_attention", False) for m in model.unet.modules()
    )


def test_a_text_that_each_layer_normalises_is_not_shared():
    model = TinyModel()
    for module in model.unet.modules():
        if getattr(module, "is_cross_attention", False):
            module.norm_cross = torch.nn.LayerNorm(8)
    assert share_projections(model.unet) == []


def test_mixed_precision_is_nearer_to_float32_than_bfloat16():
    """By the errors' size over three adapters, which are merged in float32 and rounded once."""
    model = TinyModel()
    prepared = {name: Prepared(model, precision=name) for name in ("bf16-mixed", "bfloat16")}
    error = dict.fromkeys(prepared, 0.0)
    for seed in range(3):
        adapter.detach(model)
        adapter.attach(model, config(seed=seed))
        scramble(model.unet)
        exact = call(model, model)
        for name, denoise in prepared.items():
            denoise.refresh()
            got = call(denoise, model)
            assert got.dtype == denoise.dtype
            error[name] += float((got.float() - exact).square().mean())
    assert 0 < error["bf16-mixed"] < error["bfloat16"] / 1.5
    dtypes = {n: p.dtype for n, p in prepared["bf16-mixed"]._weights.items()}
    assert dtypes["conv_in.weight"] == dtypes["conv_norm_out.weight"] == torch.float32
    assert dtypes["mid_block.resnets.0.conv1.weight"] == torch.bfloat16
    assert {p.dtype for p in model.unet.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "levels"), [("float32", 2), ("bf16-mixed", 1)])
def test_inductor_compiles_one_graph_for_good(precision, levels):
    """Rows and pairs, each: no graph break, and no new compilation for another adapter, another
    prompt or another timestep. Up and down sampling is compiled once: it takes the longest."""
    torch._dynamo.reset()
    counters.clear()
    model = TinyModel(middle=False, levels=levels)
    prepared = Prepared(model, "inductor", precision=precision)
    rounding = {"rtol": 1e-3, "atol": 1e-4} if precision == "float32" else {"rtol": 0, "atol": 0.1}
    texts = ["", "", "", *TEXTS]
    z, t = torch.randn(3, 4, 8, 8), torch.tensor([1.0, 500.0, 981.0])
    for weights in (0, 1):
        torch.testing.assert_close(call(prepared, model), call(model, model), **rounding)
        with torch.no_grad():
            paired = prepared.pairs(z, t, prepared.encode_prompts(texts))
            rows = model(torch.cat([z, z]), torch.cat([t, t]), model.encode_prompts(texts))
        torch.testing.assert_close(paired, rows, **rounding)
        adapter.detach(model)
        adapter.attach(model, config(seed=weights))
        scramble(model.unet)
        before = call(prepared, model)
        prepared.refresh()
        assert not torch.allclose(call(prepared, model), before, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2  # rows, and pairs
    assert not counters["graph_break"]
    assert not counters["recompiles"]


def record(rows):
    """Conditioning of two tensors."""
    return {"text": torch.randn(rows, 3, 2), "pooled": torch.randn(rows, 5)}


def total(cond):
    """One number for each of its rows, which both tensors have a part in."""
    return cond["text"].sum((1, 2)) + cond["pooled"].sum(1)


def test_workers_split_pairs_by_their_latents():
    def run(z, t, cond):
        return (z + t[:, None]).repeat(2, 1) + total(cond)[:, None]

    split = PerCore(run, 2)
    z, t, cond = torch.randn(4, 3), torch.arange(4.0), record(8)
    for _ in range(2):
        torch.testing.assert_close(split(z, t, cond), run(z, t, cond))


def test_workers_split_a_batch_and_compile_once():
    """Against the plain model, for batches that divide among the workers and for those that do
    not, from a thread whose own number of threads stays."""
    calls = []

    def run(z, t, cond):
        calls.append((len(z), torch.get_num_threads(), torch.is_grad_enabled()))
        return z + (t + total(cond))[:, None, None, None]

    threads = torch.get_num_threads()
    split = PerCore(run, 3)
    for rows, parts in ((6, 3), (4, 2), (5, 1), (1, 1)):
        z, t, cond = torch.randn(rows, 4, 2, 2), torch.arange(rows) * 1.0, record(rows)
        for _ in range(2):
            calls.clear()
            torch.testing.assert_close(split(z, t, cond), run(z, t, cond))
            assert calls[:-1] == [(rows // parts, 1, False)] * parts
    assert torch.get_num_threads() == threads


def test_what_does_not_divide_among_workers_is_torchs_threads_work():
    """Where nothing is compiled for one thread. Pairs too."""
    calls = []

    def run(z, t, cond):
        calls.append((len(z), torch.get_num_threads()))
        copies = len(cond["text"]) // len(z)
        return (z + t[:, None]).repeat(copies, 1) + total(cond)[:, None]

    split = PerCore(run, 3, compiled=False)
    for rows, sizes in ((6, [2, 2, 2]), (4, [2, 2]), (7, [7]), (1, [1])):
        z, t = torch.randn(rows, 3), torch.arange(rows) * 1.0
        for cond in (record(rows), record(2 * rows)):
            calls.clear()
            with undisturbed():
                got = split(z, t, cond)
            workers = [(size, 3 if len(sizes) == 1 else 1) for size in sizes]
            assert sorted(calls) == sorted(workers)
            torch.testing.assert_close(got, run(z, t, cond))


@pytest.mark.parametrize("attention", ["auto", "sdpa", "math"])
def test_the_attention_by_name(attention):
    model = TinyModel()
    prepared = Prepared(model, attention=attention)
    torch.testing.assert_close(call(prepared, model), call(model, model), rtol=1e-4, atol=1e-5)


def test_small_maps_take_products_on_a_cpu_and_large_ones_do_not():
    for size, backend, expected in (
        (8, "inductor", AttnProcessor),
        (64, "inductor", AttnProcessor2_0),
        (8, "eager", AttnProcessor2_0),
    ):
        unet = TinyModel().unet
        unet.register_to_config(sample_size=size)
        set_attention(unet, "auto", backend)
        assert {type(p) for p in unet.attn_processors.values()} == {expected}


def test_names_that_are_not_known_or_not_here():
    with pytest.raises(UserError, match="choose one of eager, inductor, tensorrt"):
        Prepared(TinyModel(), "tensorflow")
    with pytest.raises(UserError, match="choose one of auto, sdpa, math, xformers"):
        Prepared(TinyModel(), attention="flash")
    with pytest.raises(UserError, match="precision 'int4' is not known: choose one of float32"):
        Prepared(TinyModel(), precision="int4")
    with pytest.raises(UserError, match="xformers is not installed: pip install"):
        Prepared(TinyModel(), attention="xformers")
