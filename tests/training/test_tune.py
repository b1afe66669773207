import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import Killed, distance
from safetensors.torch import load_file
from tiny_model import TinyModel, TinySet, config, refusal, tree

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.config.training import TuneConfig
from mitune.training import batch_loss as loss_module
from mitune.training.loop import tune


def kill_at(step: int) -> Any:
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise Killed

    return progress


def run(out: Path, model: TinyModel | None = None, pairs: int = 5, **changes: Any) -> Path:
    return tune(model or TinyModel(), TinySet(pairs), out, config(**changes))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / FILE)


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that others are compared with."""
    return run(tmp_path_factory.mktemp("runs") / "straight")


def test_dora_magnitudes_and_directions_move(straight: Path) -> None:
    fresh = TinyModel()
    adapter.attach(fresh, config())
    adapter.save(fresh, straight.parent / "fresh", {"fingerprint": "x"})
    before, after = weights(straight.parent / "fresh"), weights(straight)
    moved = {key: (after[key] - before[key]).abs().max().item() for key in before}
    assert sum("lora_magnitude_vector" in key for key in moved) * 3 == len(moved)
    assert all(value > 1e-5 for value in moved.values())


def test_lora_has_no_magnitudes_and_moves(tmp_path: Path) -> None:
    tensors = weights(run(tmp_path, method="lora", iterations=2))
    assert tensors
    assert not any("magnitude" in key for key in tensors)
    assert all(tensor.abs().max() > 0 for tensor in tensors.values())


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    # The set is one pair, so that there is something to learn in a few steps.
    run(tmp_path, pairs=1, iterations=60, lr=3e-2, checkpoint_every=60)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_model_is_left_plain_and_the_adapter_is_the_result(straight: Path) -> None:
    model, plain = TinyModel(), TinyModel()
    base = model.predict()
    run(straight.parent / "again", model)
    assert torch.equal(model.predict(), base)
    assert not adapter.attached(model)
    adapter.load(model, straight, fingerprint=model.fingerprint)
    pipeline = plain.plain_pipeline()
    pipeline.load_lora_weights(straight)
    plain.unet = pipeline.unet
    assert (model.predict() - base).abs().max() > 1e-3
    assert (plain.predict() - model.predict()).abs().max() <= 1e-5
    assert (straight.parent / "again" / FILE).read_bytes() == (straight / FILE).read_bytes()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, straight: Path, step: int) -> None:
    with pytest.raises(Killed):
        tune(TinyModel(), TinySet(), tmp_path, config(), progress=kill_at(step))
    assert not (tmp_path / FILE).exists()
    checkpoints = tmp_path / "checkpoints"
    # What a kill during a write leaves: half a folder under a temporary name, half a line.
    (checkpoints / ".step-000006.tmp").mkdir(parents=True)
    (checkpoints / ".step-000006.tmp" / FILE).write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    seen: list[int] = []
    tune(TinyModel(), TinySet(), tmp_path, config(), progress=lambda done, *_: seen.append(done))
    assert seen == list(range(1 if step < 3 else 4, 7))
    assert (tmp_path / FILE).read_bytes() == (straight / FILE).read_bytes()
    last = Path("checkpoints/step-000006")
    assert load_file(tmp_path / last / "optimizer.safetensors").keys()
    for name, moment in load_file(tmp_path / last / "optimizer.safetensors").items():
        assert torch.equal(moment, load_file(straight / last / "optimizer.safetensors")[name])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines(tmp_path)] == [line["loss"] for line in lines(straight)]
    assert not list(checkpoints.glob(".*"))


def test_an_interrupt_finishes_the_step_writes_a_checkpoint_and_passes(
    tmp_path: Path, straight: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(done: int, total: int, loss: float) -> None:
        if done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    model = TinyModel()
    with pytest.raises(KeyboardInterrupt):
        tune(model, TinySet(), tmp_path, config(), progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not adapter.attached(model)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-000003",
        "step-000004",
    ]
    run(tmp_path)
    assert (tmp_path / FILE).read_bytes() == (straight / FILE).read_bytes()


def test_a_schedulers_sigterm_is_an_interrupt(tmp_path: Path, straight: Path) -> None:
    """A checkpoint of the last whole step, and the same bits in the end."""

    def terminate(done: int, total: int, loss: float) -> None:
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        tune(TinyModel(), TinySet(), out, config(), progress=terminate)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (out / "checkpoints" / "step-000004").is_dir()
    tune(TinyModel(), TinySet(), out, config())
    assert tree(straight)[FILE] == tree(out)[FILE]


def test_an_interrupt_amid_a_step_abandons_that_step(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0

    def interrupting(*arguments: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes == 2 * 8 + 3:  # micro-batch 1: the third pass of step 3
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*arguments)

    loss = loss_module.denoising_loss
    monkeypatch.setattr(loss_module, "denoising_loss", interrupting)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, micro_batch=1)
    assert passes == 2 * 8 + 3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    run(tmp_path, micro_batch=1)
    assert distance(tmp_path, straight) <= 1e-5


def test_an_interrupt_at_the_end_still_finishes_the_run(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, loss: float) -> None:
        if done == total:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tune(TinyModel(), TinySet(), tmp_path, config(iterations=2), progress=interrupt)
    assert (tmp_path / FILE).exists()


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_the_micro_batch_does_not_change_the_adapter(
    tmp_path: Path, straight: Path, micro_batch: int
) -> None:
    run(tmp_path, micro_batch=micro_batch)
    assert distance(tmp_path, straight) <= 1e-5


def test_a_run_may_go_on_with_another_micro_batch_and_checkpoint_interval(
    tmp_path: Path, straight: Path
) -> None:
    with pytest.raises(Killed):
        tune(TinyModel(), TinySet(), tmp_path, config(), progress=kill_at(5))
    run(tmp_path, micro_batch=2, checkpoint_every=1)
    assert distance(tmp_path, straight) <= 1e-5
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000005", "step-000006"]


def test_a_finished_run_is_left_as_it_is(straight: Path) -> None:
    before = tree(straight)

    def never(*_: object) -> None:
        raise AssertionError("a finished run trains no further")

    assert tune(TinyModel(), TinySet(), straight, config(), progress=never) == straight
    assert tree(straight) == before


def test_metrics_have_one_line_a_step(straight: Path) -> None:
    found = lines(straight)
    assert [set(line) for line in found] == [{"step", "loss", "grad_norm", "lr", "seconds"}] * 6
    assert {line["lr"] for line in found} == {1e-3}
    assert all(line["seconds"] > 0 and line["grad_norm"] > 0 for line in found)


def test_the_first_step_is_adamw_on_the_clipped_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments after one step tell the gradient that reached the optimizer."""
    norms = {}
    for name, clip in (("free", float("inf")), ("tight", 1e-3)):
        run(tmp_path / name, clip=clip, iterations=1, checkpoint_every=1)
        moments = load_file(tmp_path / name / "checkpoints/step-000001/optimizer.safetensors")
        first = [value for key, value in moments.items() if key.endswith("/exp_avg")]
        norms[name] = torch.cat([m.flatten() for m in first]).norm().item() / (1 - 0.9)
    logged = lines(tmp_path / "free")[0]["grad_norm"]
    assert norms["free"] == pytest.approx(logged, rel=1e-5)
    assert logged > 2e-3
    assert norms["tight"] == pytest.approx(1e-3, rel=1e-3)
    assert lines(tmp_path / "tight")[0]["grad_norm"] == pytest.approx(logged, rel=1e-6)


def test_one_step_is_the_equation_of_adamw(tmp_path: Path) -> None:
    """Loshchilov and Hutter, Algorithm 2, step 1: both corrected moments are the gradient's."""
    lr, decay, eps = 1e-2, 0.5, 1e-3
    run(tmp_path, lr=lr, weight_decay=decay, eps=eps, iterations=1, checkpoint_every=1)
    moments = load_file(tmp_path / "checkpoints/step-000001/optimizer.safetensors")
    start = TinyModel()
    adapter.attach(start, config())
    end = TinyModel()
    adapter.load(end, tmp_path)
    after = adapter.parameters(end)
    for name, before in adapter.parameters(start).items():
        gradient = moments[f"{name}/exp_avg"].double() / (1 - 0.9)
        expected = before.double() * (1 - lr * decay) - lr * gradient / (gradient.abs() + eps)
        assert (after[name] - expected).abs().max() < 1e-6, name


def test_a_falling_learning_rate_is_used_and_survives_a_kill(
    tmp_path: Path, straight: Path
) -> None:
    falling = config(lr_scheduler="linear")
    whole = tune(TinyModel(), TinySet(), tmp_path / "whole", falling)
    rates = [line["lr"] for line in lines(whole)]
    assert rates == pytest.approx([1e-3 * (6 - step) / 6 for step in range(6)])
    assert weights(whole).keys() == weights(straight).keys()
    assert distance(whole, straight) > 1e-5
    with pytest.raises(Killed):
        tune(TinyModel(), TinySet(), tmp_path / "killed", falling, progress=kill_at(4))
    tune(TinyModel(), TinySet(), tmp_path / "killed", falling)
    assert (tmp_path / "killed" / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_a_tiny_clip_changes_the_result(tmp_path: Path, straight: Path) -> None:
    # Adam forgets a common scale of its gradients, but not one that eps rivals.
    run(tmp_path, clip=1e-7)
    assert distance(tmp_path, straight) > 1e-4


def test_the_seed_changes_the_result(tmp_path: Path, straight: Path) -> None:
    run(tmp_path, seed=1)
    assert distance(tmp_path, straight) > 1e-3


def test_other_settings_are_refused_and_named(straight: Path) -> None:
    before = tree(straight)

    def refuse(model: TinyModel, chosen: TinySet, settings: TuneConfig) -> str:
        return refusal(tune, model, chosen, straight, settings)

    assert "config.lr is 0.001 there and 0.002 here" in refuse(
        TinyModel(), TinySet(), config(lr=2e-3)
    )
    both = refuse(TinyModel(), TinySet(), config(rank=8, iterations=7))
    assert "config.rank is 4 there and 8 here" in both
    assert "config.iterations is 6 there and 7 here" in both
    assert "model.fingerprint" in refuse(TinyModel(weights=1), TinySet(), config())
    other = refuse(TinyModel(), TinySet(seed=1), config())
    assert "set.settings.seed is 0 there and 1 here" in other
    assert "set.sha256" in other
    assert "adapter is None there" in refusal(
        tune, TinyModel(), TinySet(), straight, config(), adapter=straight
    )
    assert tree(straight) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert "letter.txt" in refusal(tune, TinyModel(), TinySet(), tmp_path, config())
    (tmp_path / "run.json").write_text('{"format": "mitune-set", "version": 1}')
    assert "describes no training run" in refusal(tune, TinyModel(), TinySet(), tmp_path, config())
    (tmp_path / "run.json").write_text("{")
    assert "damaged" in refusal(tune, TinyModel(), TinySet(), tmp_path, config())
    assert "holds a file" in refusal(
        tune, TinyModel(), TinySet(), tmp_path / "letter.txt", config()
    )
    assert sorted(tree(tmp_path)) == ["letter.txt", "run.json"]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0

    def diverging(*arguments: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return loss(*arguments) * (torch.nan if passes == 5 else 1)

    loss = loss_module.denoising_loss
    monkeypatch.setattr(loss_module, "denoising_loss", diverging)
    whole = config(gradient="peft")  # a step is one pass: no workers share it
    message = refusal(tune, TinyModel(), TinySet(), tmp_path, whole)
    assert "step 5: loss is nan" in message
    assert str(tmp_path / "checkpoints" / "step-000003") in message
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert not (tmp_path / FILE).exists()
    passes = 4
    message = refusal(tune, TinyModel(), TinySet(), tmp_path / "other", whole)
    assert "step 1: loss is nan" in message
    assert "no checkpoint yet" in message


def test_training_goes_on_from_an_adapter(tmp_path: Path, straight: Path) -> None:
    out = tune(TinyModel(), TinySet(), tmp_path / "b", config(lr=1e-9), adapter=straight)
    assert distance(out, straight) < 1e-6  # it started there, not from the beginning
    assert json.loads((out / "run.json").read_text())["settings"]["adapter"]
    # And nothing is written where the start does not fit.
    for settings, text in (
        (config(rank=8), "rank is 4 there and 8 here"),
        (config(method="lora"), "method is dora there and lora here"),
        (config(alpha=8.0), "alpha is 4 there and 8.0 here"),
        (config(targets=("to_q",)), "layers are adapted there"),
    ):
        new, model = tmp_path / "new", TinyModel()
        assert text in refusal(tune, model, TinySet(), new, settings, adapter=straight)
        assert not new.exists()
        assert not adapter.attached(model)
    assert "another model" in refusal(
        tune, TinyModel(weights=1), TinySet(), tmp_path / "new", config(), adapter=straight
    )
    assert "is not there" in refusal(
        tune, TinyModel(), TinySet(), tmp_path / "new", config(), adapter=tmp_path / "absent"
    )
    assert not (tmp_path / "new").exists()


def test_a_model_with_an_adapter_is_refused_and_keeps_it(tmp_path: Path, straight: Path) -> None:
    model = TinyModel()
    adapter.load(model, straight)
    before = model.predict()
    assert "already carries" in refusal(tune, model, TinySet(), tmp_path / "new", config())
    assert torch.equal(model.predict(), before)
    assert not (tmp_path / "new").exists()


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        tune(TinyModel(), TinySet(), tmp_path / "a", config(), progress=kill_at(3))
    place = tmp_path / "a" / "checkpoints" / "step-000003"
    for name in ("state.json", "optimizer.safetensors", FILE):
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[:-10])
        message = refusal(tune, TinyModel(), TinySet(), tmp_path / "a", config())
        assert str(place) in message
        (place / name).write_bytes(content)
    with pytest.raises(Killed):
        tune(TinyModel(), TinySet(), tmp_path / "b", config(seed=1), progress=kill_at(3))
    other = tmp_path / "b" / "checkpoints" / "step-000003"
    shutil.rmtree(other)
    shutil.copytree(place, other)
    assert "another run" in refusal(tune, TinyModel(), TinySet(), tmp_path / "b", config(seed=1))


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in refusal(tune, TinyModel(), TinySet(), tmp_path / "file" / "out", config())


def test_a_half_precision_model_trains_a_float32_adapter(tmp_path: Path) -> None:
    model = TinyModel()
    model.unet.bfloat16()
    model.dtype = torch.bfloat16
    run(tmp_path, model, lr=1e-5)
    tensors = weights(tmp_path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    # Steps of 1e-5 on magnitudes near 1 are below bfloat16's resolution of 4e-3.
    magnitude = next(value for key, value in tensors.items() if "magnitude" in key)
    assert not torch.equal(magnitude, magnitude.bfloat16().float())
