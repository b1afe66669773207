"""The merged gradient against peft's own."""

from dataclasses import replace

import pytest
import torch
from tiny_model import TinyModel, TinySet, config, scramble
from torch import nn

from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.runtime.mixed_precision import HalfProducts, Pairing, TrainedProducts
from mitune.training import program as program_module
from mitune.training.batches import Batches
from mitune.training.gradient import PeftGradient, gradient_of
from mitune.training.merged import MergedGradient

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYTHING = (*ATTENTION, "conv1", "conv_shortcut", "proj_in", "ff.net.2", "conv_in", "conv_out")


def adapted(double=False, levels=2, **changes):
    model, chosen = TinyModel(middle=levels > 1, levels=levels), config(**changes)
    adapter.attach(model, chosen)
    scramble(model.unet)
    if double:
        model.unet.double()
        model.dtype = torch.float64
    return model, chosen


def gradients(model, way, chosen, step=0):
    """Loss and gradients of one step's batch."""
    batches = Batches(model, TinySet().selected(), chosen)
    made = way(model, chosen)
    made.begin()
    loss = sum(made.add(samples) for samples in batches.step(step))
    made.finish()
    return loss, {n: p.grad.clone() for n, p in adapter.parameters(model).items()}


def worst(got, expected):
    """The largest relative error of a tensor."""
    assert got.keys() == expected.keys()
    return max(float((got[n] - g).norm() / g.norm()) for n, g in expected.items())


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING], ids=["attention", "everything"])
@pytest.mark.parametrize("method", ["dora", "lora"])
def test_it_is_pefts_own_gradient(method, targets):
    """In float64, layer by layer, with an adapter far from its start and a scale other than 1."""
    model, chosen = adapted(double=True, method=method, targets=targets, alpha=7)
    _, expected = gradients(model, PeftGradient, chosen)
    loss, got = gradients(model, MergedGradient, chosen)
    assert loss == pytest.approx(float(gradients(model, PeftGradient, chosen)[0]), rel=1e-6)
    assert worst(got, expected) < 1e-6  # the loss itself is float32
    assert all(float(g.norm()) > 0 for g in got.values())


def test_with_mutual_information_in_the_loss_it_is_pefts_own_gradient():
    model, chosen = adapted(double=True)
    _, plain = gradients(model, PeftGradient, chosen)
    chosen = replace(chosen, mi_weight=0.1)
    _, expected = gradients(model, PeftGradient, chosen)
    assert worst(plain, expected) > 1e-3
    assert worst(gradients(model, MergedGradient, chosen)[1], expected) < 1e-6


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_the_micro_batch_changes_rounding_alone(micro_batch):
    model, chosen = adapted(double=True, micro_batch=8)
    _, expected = gradients(model, MergedGradient, chosen)
    model, chosen = adapted(double=True, micro_batch=micro_batch)
    assert worst(gradients(model, MergedGradient, chosen)[1], expected) < 1e-6


def test_a_gpus_layout_changes_rounding_alone(monkeypatch):
    """Compiled on a GPU convolutions are channels-last, among them those that are trained; here so
    without compiling, on a CPU."""
    assert program_module._layout(True, torch.device("cuda")) is torch.channels_last
    assert program_module._layout(False, torch.device("cuda")) is torch.preserve_format
    assert program_module._layout(True, torch.device("cpu")) is torch.preserve_format
    model, chosen = adapted(double=True, targets=EVERYTHING)
    _, expected = gradients(model, PeftGradient, chosen)
    monkeypatch.setattr(program_module, "_layout", lambda *_: torch.channels_last)
    made = MergedGradient(model, chosen)
    convolutions = [m.weight for m in made.plain.modules() if isinstance(m, nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert worst(gradients(model, MergedGradient, chosen)[1], expected) < 1e-6


def test_it_follows_the_adapter_and_leaves_the_model_alone():
    """A step with other values of the adapter has their gradient; the model's own tensors, its
    attention and its gradients' flags stay."""
    model, chosen = adapted()
    before = {n: t.clone() for n, t in model.unet.state_dict().items()}
    processors = [type(p) for p in model.unet.attn_processors.values()]
    merged, batches = MergedGradient(model, chosen), Batches(model, TinySet().selected(), chosen)
    for _ in range(2):
        merged.begin()
        for samples in batches.step(0):
            merged.add(samples)
        merged.finish()
        got = {n: p.grad.clone() for n, p in adapter.parameters(model).items()}
        assert worst(got, gradients(model, PeftGradient, chosen)[1]) < 1e-4
        for n, t in model.unet.state_dict().items():
            assert torch.equal(t, before[n])
        with torch.no_grad():
            for parameter in adapter.parameters(model).values():
                parameter.mul_(1.1)
        before = {n: t.clone() for n, t in model.unet.state_dict().items()}
    assert [type(p) for p in model.unet.attn_processors.values()] == processors
    trained = {n for n, p in model.unet.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)


def test_frozen_tensors_are_shared():
    """Only what is trained has memory of its own."""
    model, chosen = adapted()
    merged = MergedGradient(model, chosen)
    own = {p.data_ptr() for p in model.unet.parameters()}
    unet = merged.plain
    copies = [p for p in unet.parameters() if p.data_ptr() not in own]
    assert len(copies) == len(merged._leaves)
    assert {p.data_ptr() for p in copies} == {leaf.data_ptr() for leaf in merged._leaves}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bfloat16"])
def test_half_precision_is_near(precision):
    model, chosen = adapted()
    _, expected = gradients(model, PeftGradient, chosen)
    model.precision = precision
    if precision == "bfloat16":
        model.dtype = torch.bfloat16
        for name, parameter in model.unet.named_parameters():
            if ".lora_" not in name:
                parameter.data = parameter.data.bfloat16()
    before = {n: t.clone() for n, t in model.unet.state_dict().items()}
    _, got = gradients(model, MergedGradient, chosen)
    assert all(torch.equal(t, before[n]) for n, t in model.unet.state_dict().items())
    assert all(g.dtype == torch.float32 for g in got.values())
    whole = torch.cat([g.flatten() for g in expected.values()])
    found = torch.cat([g.flatten() for g in got.values()])
    assert 1e-4 < float((found - whole).norm() / whole.norm()) < 0.1


def test_a_trained_weight_is_not_rounded_to_half_precision():
    """Its rows as they act: the sum of two halves, where one half is off by a thousandth."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False)
    unit = torch.eye(64)
    with torch.no_grad():
        split = TrainedProducts(layer, torch.bfloat16)(unit).T
        rounded = HalfProducts(layer, torch.bfloat16, Pairing())(unit).T
    scale = layer.weight.abs().mean()
    assert float((split - layer.weight).abs().mean() / scale) < 1e-5
    assert float((rounded - layer.weight).abs().mean() / scale) > 5e-4


def test_by_name():
    model, chosen = adapted()
    assert isinstance(gradient_of(model, chosen), MergedGradient)
    model, chosen = adapted(gradient="peft")
    assert isinstance(gradient_of(model, chosen), PeftGradient)


@pytest.fixture(scope="module")
def two_threads():
    """Of torch, for as many workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def compiled(two_threads):
    """Of one step compiled and not, with a micro-batch that two workers share."""
    model, chosen = adapted(levels=1, batch=4, micro_batch=4)  # the less to compile
    expected = gradients(model, MergedGradient, chosen)
    return expected, gradients(model, MergedGradient, replace(chosen, backend="inductor"))


def test_compiled_it_is_the_same(compiled):
    (loss, expected), (its_loss, got) = compiled
    assert float(its_loss) == pytest.approx(float(loss), rel=1e-5)
    assert worst(got, expected) < 1e-4


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("batch", "micro_batch"), [(8, 4), (7, 7), (5, 4)])
def test_workers_that_compile_nothing_add_up_to_pefts_gradient(batch, micro_batch):
    """Of equal parts, of 4 and 3 samples, and of one sample that is left for all of them."""
    model, chosen = adapted(double=True, batch=batch, micro_batch=micro_batch)
    loss, expected = gradients(model, PeftGradient, chosen)
    its_loss, got = gradients(model, MergedGradient, chosen)
    assert float(its_loss) == pytest.approx(float(loss), rel=1e-6)
    assert worst(got, expected) < 1e-6  # the loss itself is float32


@pytest.mark.usefixtures("two_threads")
def test_workers_that_cannot_share_a_micro_batch_evenly_add_up_to_the_same(monkeypatch):
    """Of 4 and 3 samples, without the compiler, which would compile for both."""
    model, chosen = adapted(double=True, batch=7, micro_batch=4)
    loss, expected = gradients(model, MergedGradient, chosen)
    monkeypatch.setattr(program_module, "compile_run", lambda run, device: run)
    its_loss, got = gradients(model, MergedGradient, replace(chosen, backend="inductor"))
    assert float(its_loss) == pytest.approx(float(loss), rel=1e-6)
    assert worst(got, expected) < 1e-6  # the loss itself is float32


def test_a_compiler_that_is_wrong_is_refused(monkeypatch):
    """And the message says by how much. A prediction that scales the gradient by 1.01."""
    monkeypatch.setattr(program_module, "compile_run", lambda run, device: wrong_by(run, 0.01))
    model, chosen = adapted(backend="inductor")
    with pytest.raises(UserError, match=r"gradient is 1\.0e-02 away from eager's"):
        gradients(model, MergedGradient, chosen)


def wrong_by(run, share):
    def wrong(*given):
        prediction = run(*given)
        return prediction + share * (prediction - prediction.detach())

    return wrong


def test_adapted_upsampling_is_not_folded():
    """Its weight is trained, and no longer that of a convolution if it were."""
    for targets, folded in ((ATTENTION, True), ((*ATTENTION, "upsamplers.0.conv"), False)):
        model, chosen = adapted(targets=targets, backend="inductor")
        unet = MergedGradient(model, chosen).plain
        kinds = {type(m) for m in unet.modules()}
        assert (nn.ConvTranspose2d in kinds) == folded


def test_a_later_training_of_the_same_kind_is_not_compiled_again(monkeypatch):
    """And makes the gradient of a first one; changed weights or other layers compile again."""
    calls = []

    def compiled(run, device):
        calls.append(run)
        return run

    monkeypatch.setattr(program_module, "compile_run", compiled)
    model, chosen = adapted(backend="inductor")
    first = gradients(model, MergedGradient, chosen)
    adapter.detach(model)
    for targets, changed, number in (
        (ATTENTION, False, 1),
        (ATTENTION, True, 2),
        (("to_q",), False, 3),
    ):
        if changed:
            with torch.no_grad():
                model.unet.conv_in.weight.mul_(1.5)
        again = replace(chosen, targets=targets)
        adapter.attach(model, again)
        scramble(model.unet)
        loss, found = gradients(model, MergedGradient, again)
        if number == 1:
            assert float(loss) == float(first[0])
            assert all(torch.equal(found[name], first[1][name]) for name in found)
        expected = gradients(model, PeftGradient, again)[1]
        assert worst(found, expected) < 1e-4
        adapter.detach(model)
        assert len(calls) == number
