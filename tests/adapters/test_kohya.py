"""Plain LoRA: exact where it can be, and honest where it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import TinyModel
from torch import Tensor
from trained import KINDS, MIXED, NAMES, base_weights, furthest, loaded, merged, notes, trained

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.adapters.export.write import Exported, export_adapter

FULL = 10_000


def export(tmp_path: Path, rank: int | None = None, **changes: Any) -> Exported:
    trained(tmp_path / "a", **changes)
    out = tmp_path / f"rank-{rank}"
    return export_adapter(TinyModel(), tmp_path / "a", out, "kohya", rank=rank)


def updates(done: Exported) -> dict[str, Tensor]:
    """up @ down * alpha / rank by the layer's name, float64, ``[out, in]``."""
    assert done.file is not None
    file = load_file(done.file)
    assert not any("dora" in key for key in file)
    found = {}
    for name in base_weights():
        key = f"lora_unet_{name.replace('.', '_')}"
        if (down := file.get(f"{key}.lora_down.weight")) is not None:
            up = file[f"{key}.lora_up.weight"]
            assert up.shape[2:] == ((1, 1) if down.dim() == 4 else ())
            scale = file[f"{key}.alpha"].double() / down.shape[0]
            found[name] = scale * (up.double().flatten(1) @ down.double().flatten(1))
    return found


def deltas(folder: Path, scale: float = 1.0) -> dict[str, Tensor]:
    return {
        name: (weight - base_weights()[name]).flatten(1)
        for name, weight in merged(folder, scale).items()
    }


@pytest.mark.parametrize("changes", KINDS, ids=NAMES)
def test_at_full_rank_it_is_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    done = export(tmp_path, FULL, **changes)
    expected, found = deltas(tmp_path / "a", changes.get("alpha", 4) / 4), updates(done)
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        assert delta.abs().max() > 1e-2
        assert furthest(found[name], delta) < 1e-5, name
    assert done.error_largest is not None
    assert done.error_largest < 1e-5


def test_a_lora_keeps_its_own_factors(tmp_path: Path) -> None:
    done = export(tmp_path, method="lora", alpha=10.0, targets=MIXED)
    assert done.rank == 4
    assert done.error_largest == pytest.approx(0, abs=1e-12)
    assert done.file is not None
    file, own = load_file(done.file), load_file(tmp_path / "a" / FILE)
    for key, value in own.items():
        name, part = key.removeprefix("unet.").split(".lora.")
        key = f"lora_unet_{name.replace('.', '_')}"
        assert torch.equal(file[f"{key}.lora_{part}"], value)
        assert file[f"{key}.alpha"] == 10


@pytest.mark.parametrize("method", ["dora", "lora"])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_error_told_is_the_true_one(tmp_path: Path, method: str, rank: int) -> None:
    """Against the file's own tensors, and against the singular values that were cut off."""
    done = export(tmp_path, rank, method=method, targets=MIXED)
    found, told, cut = updates(done), [], []
    for name, delta in deltas(tmp_path / "a").items():
        told.append(((delta - found[name]).norm() / delta.norm()).item())
        values = torch.linalg.svdvals(delta)
        cut.append((values[rank:].norm() / values.norm()).item())
    assert min(told) > 1e-2
    for errors in (told, cut):
        assert done.error_largest == pytest.approx(max(errors), rel=1e-5)
        assert done.error_mean == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert notes(done.file)["error_largest"] == done.error_largest
    assert (notes(done.file)["rank"], done.rank) == (rank, rank)


def test_a_dora_gets_twice_its_rank(tmp_path: Path) -> None:
    trained(tmp_path / "a", rank=3)
    done = export_adapter(TinyModel(), tmp_path / "a", tmp_path / "b", "kohya")
    assert done.rank == 6


def test_more_rank_is_nearer(tmp_path: Path) -> None:
    errors = [export(tmp_path, rank).error_mean for rank in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 3


@pytest.mark.parametrize("changes", KINDS, ids=NAMES)
def test_plain_diffusers_reads_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    """At full rank, where the layers differ in rank; alphas that differ diffusers gets wrong."""
    done = export(tmp_path, FULL, **changes)
    assert done.file is not None
    model = TinyModel()
    base = model.predict()
    adapter.load(model, tmp_path / "a")
    expected = model.predict()
    assert furthest(expected, base) > 1e-2
    assert furthest(loaded(done.file).predict(), expected) < 1e-5


def test_one_alpha_serves_all_layers(tmp_path: Path) -> None:
    done = export(tmp_path, FULL, targets=MIXED)
    assert done.file is not None
    file = load_file(done.file)
    assert len({value.item() for key, value in file.items() if key.endswith("alpha")}) == 1
    assert len({value.shape[0] for key, value in file.items() if "lora_down" in key}) == 2
