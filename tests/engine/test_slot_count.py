"""How many candidates are in flight."""

from pathlib import Path
from typing import Any

import pytest
import torch

import mitune
from mitune.config.runtime import Runtime
from mitune.core.errors import UserError
from mitune.engine import slot_count
from mitune.engine.slot_count import with_slots

SAMPLER = mitune.SamplerConfig(steps=3)


class OnGpu:
    """The embedded model, which says that it is on a GPU."""

    device = torch.device("cuda")

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def room_for(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of more run out of memory."""

    class Engine:
        def __init__(self, *_: Any, slots: int, **__: Any) -> None:
            self.slots = slots

        def warm_up(self) -> None:
            if self.slots > slots:
                raise torch.OutOfMemoryError

    monkeypatch.setattr(slot_count, "Engine", Engine)
    monkeypatch.setattr(slot_count, "prepare", lambda *_: None)


def test_auto_is_what_fits_less_an_eighth(
    shapes_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OnGpu(shapes_model)
    for room, most, slots in ((20, 1000, 18), (3, 1000, 3), (1000, 100, 88)):
        room_for(room, monkeypatch)
        assert with_slots(model, Runtime(slots="auto"), SAMPLER, most).slots == slots
    room_for(0, monkeypatch)
    with pytest.raises(UserError, match="not even one candidate fits into memory"):
        with_slots(model, Runtime(slots="auto"), SAMPLER, 1000)


def test_on_a_cpu_nothing_is_tried(shapes_model: Any) -> None:
    for asked, most, slots in (("auto", 1000, 64), ("auto", 5, 5), (8, 5, 5), (8, 1000, 8)):
        runtime = Runtime(slots=asked)
        assert with_slots(shapes_model, runtime, SAMPLER, most).slots == slots


def test_a_set_goes_on_with_the_number_it_began_with(shapes_model: Any, tmp_path: Path) -> None:
    prompts, options = ["a red circle"], {"candidates": 4, "steps": 3}
    begun = mitune.build_set(shapes_model, prompts, tmp_path, slots=3, **options)
    again = mitune.build_set(shapes_model, prompts, tmp_path, slots="auto", **options)
    assert again.settings == begun.settings


def test_generate_takes_it(shapes_model: Any) -> None:
    options = {"candidates": 4, "steps": 3}
    one, other = (
        list(mitune.generate(shapes_model, ["a red circle"], slots=slots, **options))
        for slots in ("auto", 4)
    )
    assert [c.score for c in one] == [c.score for c in other]


def test_words_are_refused() -> None:
    with pytest.raises(UserError, match="slots is 'many': expected a whole number or 'auto'"):
        Runtime(slots="many")
    with pytest.raises(UserError, match="micro_batch is 'many': expected a whole number"):
        mitune.TuneConfig(micro_batch="many")
    with pytest.raises(UserError, match="slots is 0: expected at least 1"):
        Runtime(slots=0)
