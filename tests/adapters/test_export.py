"""What all forms share: the diffusers form itself, the folder, the card, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import TinyModel, tree
from trained import KINDS, NAMES, furthest, loaded, notes, trained

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.adapters.export.write import FORMATS, export_adapter
from mitune.core.errors import UserError


def refusal(
    model: TinyModel, path: Path, out: Path, format: str = "comfyui", **options: Any
) -> str:
    """The line of an export that must fail, write nothing and leave the model plain."""
    before = tree(out.parent)
    with pytest.raises(UserError) as caught:
        export_adapter(model, path, out, format, **options)
    assert "\n" not in str(caught.value)
    assert tree(out.parent) == before
    assert not adapter.attached(model)
    return str(caught.value)


@pytest.mark.parametrize("changes", KINDS, ids=NAMES)
def test_diffusers_reads_the_adapter(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = trained(tmp_path / "a", **changes).predict()
    done = export_adapter(TinyModel(), tmp_path / "a", tmp_path / "b", "diffusers")
    assert done.file == tmp_path / "b" / FILE
    assert done.file.read_bytes() == (tmp_path / "a" / FILE).read_bytes()
    assert furthest(loaded(tmp_path / "b").predict(), ours) < 1e-6


def test_another_trainers_adapter_gets_the_base_as_its_notes(tmp_path: Path) -> None:
    ours = trained(tmp_path / "a").predict()
    save_file(load_file(tmp_path / "a" / FILE), tmp_path / "other.safetensors")
    export_adapter(TinyModel(), tmp_path / "other.safetensors", tmp_path / "b", "diffusers")
    assert notes(tmp_path / "b" / FILE) == {"model": "tiny", "fingerprint": TinyModel().fingerprint}
    assert furthest(loaded(tmp_path / "b").predict(), ours) < 1e-6
    assert "not known" in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize("format", ["diffusers", "comfyui", "kohya"])
def test_equal_adapters_give_equal_bytes_and_leave_the_model_plain(
    tmp_path: Path, format: str
) -> None:
    trained(tmp_path / "a")
    model = TinyModel()
    before = model.predict()
    for run in ("1", "2"):
        export_adapter(model, tmp_path / "a", tmp_path / run / "x", format)
        assert torch.equal(model.predict(), before)
    files = tree(tmp_path / "1" / "x")
    assert files == tree(tmp_path / "2" / "x")
    name = FILE if format == "diffusers" else "x.safetensors"
    assert sorted(files) == sorted(["README.md", name])


@pytest.mark.parametrize("format", FORMATS)
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, format: str) -> None:
    trained(tmp_path / "a")
    message = refusal(TinyModel(weights=1), tmp_path / "a", tmp_path / "b", format)
    assert "another model (tiny, fingerprint 000000000000)" in message


def test_what_was_asked_wrongly_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "a")
    model, path, out = TinyModel(), tmp_path / "a", tmp_path / "b"
    assert "choose one of diffusers, comfyui, kohya, merged" in refusal(model, path, out, "lycoris")
    assert "rank is 0: expected at least 1" in refusal(model, path, out, "kohya", rank=0)
    assert "kohya alone" in refusal(model, path, out, "comfyui", rank=4)
    assert "is not there" in refusal(model, tmp_path / "absent", out)
    half = TinyModel()
    half.dtype, half.precision = torch.bfloat16, "bfloat16"
    assert "is in bfloat16: expected float32" in refusal(half, path, out)


def test_an_adapter_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / FILE)
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, tmp_path / "broken.safetensors")
    message = refusal(TinyModel(), tmp_path / "broken.safetensors", tmp_path / "b")
    assert "not finite" in message


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_holds_something_is_refused(tmp_path: Path, format: str) -> None:
    trained(tmp_path / "a")
    assert "is not empty" in refusal(TinyModel(), tmp_path / "a", tmp_path / "a", format)
    (tmp_path / "letter").write_text("dear")
    assert "is a file" in refusal(TinyModel(), tmp_path / "a", tmp_path / "letter", format)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    trained(tmp_path / "a")
    (tmp_path / "b").mkdir()
    done = export_adapter(TinyModel(), tmp_path / "a", tmp_path / "b", "comfyui")
    assert done.file == tmp_path / "b" / "b.safetensors"
    assert done.file.is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The card is the last file: all else is written when it fails."""

    def fail(*_: Any, **__: Any) -> bytes:
        raise error

    trained(tmp_path / "a")
    before = tree(tmp_path)
    monkeypatch.setattr("mitune.adapters.export.write.card", fail)
    with pytest.raises((KeyboardInterrupt, UserError)) as caught:
        export_adapter(TinyModel(), tmp_path / "a", tmp_path / "b", "kohya")
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert tree(tmp_path) == before
    assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    trained(tmp_path / "a")
    (tmp_path / ".b.tmp").mkdir()
    (tmp_path / ".b.tmp" / "half").write_text("ha")
    export_adapter(TinyModel(), tmp_path / "a", tmp_path / "b", "comfyui")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert sorted(tree(tmp_path / "b")) == ["README.md", "b.safetensors"]


def test_the_kohya_card_tells_the_error(tmp_path: Path) -> None:
    trained(tmp_path / "a")
    done = export_adapter(TinyModel(), tmp_path / "a", tmp_path / "b", "kohya", rank=2)
    card = (tmp_path / "b" / "README.md").read_text()
    assert f"{done.error_largest:.3g} at most" in card
    assert "rank 2" in card
