"""What a training of the embedded model is watched by."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.evaluation.compare import measure
from mitune.evaluation.drawing import draw
from mitune.evaluation.held_out import HeldOutMI, SamplePictures
from mitune.training.callbacks import Watch
from mitune.training.loop import tune

PROMPTS = ["a red circle and a blue square", "a green triangle"]
QUICK = SamplerConfig(steps=3, guidance=1.0, t_min=400)


class Noise:
    """A set of two latents."""

    settings = {"seed": 0}  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...]) -> None:
        latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
        self.pairs = [(f"a blue circle, {n}", latent) for n, latent in enumerate(latents)]

    def selected(self) -> list[tuple[str, torch.Tensor]]:
        return self.pairs


def trained(model: Any, out: Path, watch: Watch | None = None, **changes: Any) -> Path:
    few = {"rank": 4, "alpha": 4, "batch": 4, "micro_batch": 4, "iterations": 2}
    few |= {"targets": ("to_q",), "checkpoint_every": 1}
    config = replace(model.preset.tuning, **(few | changes))
    return tune(model, Noise(model.latent_shape), out, config, watch=watch)


def held_out(model: Any, **options: Any) -> HeldOutMI:
    return HeldOutMI(model, PROMPTS, sampler=QUICK, draws=2, **options)


def watched(model: Any) -> Watch:
    return Watch(
        held_out=held_out(model),
        held_out_every=1,
        samples=SamplePictures(model, PROMPTS, images=3, sampler=QUICK),
        validation_steps=1,
    )


@pytest.mark.parametrize("gradient", ["peft", "merged"])
def test_watching_changes_no_byte(exact_model: Any, tmp_path: Path, gradient: str) -> None:
    alone = trained(exact_model, tmp_path / "alone", gradient=gradient)
    state = torch.get_rng_state()
    seen = trained(exact_model, tmp_path / "seen", watched(exact_model), gradient=gradient)
    assert torch.equal(torch.get_rng_state(), state)
    assert (alone / FILE).read_bytes() == (seen / FILE).read_bytes()
    for step in (1, 2):
        for name in ("optimizer.safetensors", FILE):
            place = Path("checkpoints") / f"step-{step:06d}" / name
            assert (alone / place).read_bytes() == (seen / place).read_bytes()


def test_it_is_what_eval_measures(exact_model: Any, tmp_path: Path) -> None:
    """Of the tuned model's pictures under the base; and of base pictures before any training."""

    def as_eval(load: Callable[[], object]) -> float:
        load()
        drawn = draw(exact_model, PROMPTS, images=1, sampler=QUICK, seed=5)
        adapter.detach(exact_model)
        return float(measure(exact_model, drawn, draws=2)["mi_nats"].mean())

    found: dict[str, float] = {}
    judge = held_out(exact_model, seed=5)
    assert judge.mi() == as_eval(lambda: None)

    class Told:
        prompts, settings = judge.prompts, judge.settings

        def mi(self) -> float:
            found["tuned"] = judge.mi()
            return found["tuned"]

    out = trained(exact_model, tmp_path, Watch(held_out=Told(), held_out_every=50), lr=1e-2)
    tuned = as_eval(lambda: adapter.load(exact_model, out))
    # In training the adapter's layers are merged from the same numbers: the same bits.
    assert found["tuned"] == tuned
    assert abs(tuned - judge.mi()) > 1e-3  # the judge's own pictures have another


def test_the_settings_say_what_is_measured(exact_model: Any) -> None:
    settings = held_out(exact_model).settings
    assert settings["prompts"] == 2
    assert settings["estimator"] == "orthogonal"  # as the preset's needs a trajectory
    for other in (
        HeldOutMI(exact_model, PROMPTS[:1], sampler=QUICK, draws=2),
        HeldOutMI(exact_model, [*PROMPTS[:1], "a red triangle"], sampler=QUICK, draws=2),
        HeldOutMI(exact_model, PROMPTS, draws=2),
        held_out(exact_model, seed=1),
        held_out(exact_model, images=2),
        HeldOutMI(exact_model, PROMPTS, sampler=QUICK, draws=3),
    ):
        assert other.settings != settings
    assert held_out(exact_model).settings == settings


def test_pictures_are_of_the_model_as_it_is_on_the_same_noise(
    exact_model: Any, tmp_path: Path
) -> None:
    out = trained(exact_model, tmp_path / "run", watched(exact_model), lr=1e-2)
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "step-000001.png",
        "step-000002.png",
    ]
    pictures = SamplePictures(exact_model, PROMPTS, images=3, sampler=QUICK)
    pictures(tmp_path / "base.png")
    pictures(tmp_path / "again.png")
    adapter.load(exact_model, out)
    pictures(tmp_path / "tuned.png")
    base, again, tuned = (tmp_path / f"{n}.png" for n in ("base", "again", "tuned"))
    assert base.read_bytes() == again.read_bytes()
    last = out / "samples" / "step-000002.png"
    assert last.read_bytes() == tuned.read_bytes()
    assert last.read_bytes() != base.read_bytes()
    assert last.read_bytes() != (out / "samples" / "step-000001.png").read_bytes()
    with Image.open(last) as image:
        width, height = image.size
    assert width > height  # two rows, three columns


def test_mistakes_are_named(exact_model: Any, tmp_path: Path) -> None:
    for made in (HeldOutMI, SamplePictures):
        for prompts, options, words in (
            ([], {}, "none is given"),
            (["a", ""], {}, "is empty"),
            (["a", "b", "a"], {}, "'a' is given twice"),
            (["a"], {"images": 0}, "images is 0"),
        ):
            with pytest.raises(UserError, match=words):
                made(exact_model, prompts, **options)
    with pytest.raises(UserError, match="draws is 0"):
        HeldOutMI(exact_model, PROMPTS, draws=0)
    adapter.load(exact_model, trained(exact_model, tmp_path, iterations=1))
    with pytest.raises(UserError, match="base model is to judge"):
        HeldOutMI(exact_model, PROMPTS)


def test_slots_are_still_taken(exact_model):
    with pytest.warns(DeprecationWarning, match="slots is a part of runtime now"):
        made = SamplePictures(exact_model, PROMPTS, sampler=QUICK, slots=3)
    assert made._drawn.runtime.slots == 3
