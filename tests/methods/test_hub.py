"""Uploads, to a stand-in of the hub on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Hub, hub_stand_in
from safetensors.torch import load

import mitune
from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import export_adapter
from mitune.core.errors import UserError
from mitune.methods.hub import prepare_upload

TRAINING = mitune.TuneConfig(rank=2, alpha=2, batch=2, micro_batch=2, iterations=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set and an adapter."""
    folder = tmp_path_factory.mktemp("made")
    model = mitune.load("shapes-v1")
    built = mitune.build_set(model, ["a red circle"], folder / "set", candidates=2, steps=3)
    mitune.tune(model, built, folder / "adapter", TRAINING, checkpoint_every=1)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stand_in() as stand_in:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.address)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", stand_in.address, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        yield stand_in


def test_an_adapter_with_its_card_and_without_checkpoints(made: Path, hub: Hub) -> None:
    folder = made / "adapter"
    assert (folder / "checkpoints").is_dir()
    address = mitune.push_to_hub(folder, "someone/first")
    assert address.endswith("someone/first")
    (created,) = hub.created
    assert (created["name"], created["organization"]) == ("first", "someone")
    assert created.get("private", created.get("visibility")) in (True, "private")
    names = {name.removeprefix("models/someone/first/") for name in hub.files}
    assert names == {
        "README.md",
        "run.json",
        "metrics.jsonl",
        "pytorch_lora_weights.safetensors",
    }
    for name in names:
        assert hub.files[f"models/someone/first/{name}"] == (folder / name).read_bytes()
    assert load(hub.files["models/someone/first/pytorch_lora_weights.safetensors"])
    assert hub.tokens == {"Bearer hf_of_the_test"}


def test_a_set_is_a_dataset(made: Path, hub: Hub) -> None:
    mitune.push_to_hub(made / "set", "someone/pools", public=True)
    (created,) = hub.created
    assert created["type"] == "dataset"
    assert created.get("private", created.get("visibility")) in (False, "public")
    names = {name.removeprefix("datasets/someone/pools/") for name in hub.files}
    assert {"README.md", "run.json"} < names
    assert any(name.startswith("parts/") for name in names)


def test_pictures_have_a_card_too(made: Path, hub: Hub, tmp_path: Path) -> None:
    model = mitune.load("shapes-v1")
    found = mitune.FineTuningSet.open(made / "set")
    for form in ("imagefolder", "pairs", "webdataset"):
        mitune.export_pictures(model, found, tmp_path / form, form)
        upload = prepare_upload(tmp_path / form, "someone/pictures")
        assert upload.kind == "dataset"
        assert "README.md" in upload.files
        assert "drawn by `shapes-v1`" in (tmp_path / form / "README.md").read_text()


def test_nothing_leaves_before_it_is_asked_for(made: Path, hub: Hub) -> None:
    upload = prepare_upload(made / "adapter", "someone/first")
    assert not hub.tokens
    first, *files = str(upload).splitlines()
    assert first.endswith("to the private model someone/first")
    assert [file.strip() for file in files] == list(upload.files)
    assert upload.bytes > 1000


def test_mistakes_are_one_line(made: Path, hub: Hub, tmp_path: Path) -> None:
    for folder, name, words in (
        (made / "adapter", "first", "'first' is no name of a repository: expected user/name"),
        (tmp_path, "a/b", "holds no README.md"),
        (tmp_path / "nowhere", "a/b", "is not there"),
        (made / "adapter", "me/..", "is no name of a repository"),
        (made / "adapter", "me/x.git", "is no name of a repository"),
        (made / "adapter" / "checkpoints", "a/b", "holds no README.md"),
    ):
        with pytest.raises(UserError, match=words):
            mitune.push_to_hub(folder, name)
    hub.refuse = True
    with pytest.raises(UserError, match=r"was not uploaded to someone/first .*hf auth login"):
        mitune.push_to_hub(made / "adapter", "someone/first")


def test_what_is_not_finished_is_refused(made: Path, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((made / "adapter" / "run.json").read_bytes())
    (tmp_path / "README.md").write_bytes((made / "adapter" / "README.md").read_bytes())
    with pytest.raises(UserError, match="is not finished: run its command again"):
        mitune.push_to_hub(tmp_path, "someone/first")
    assert not hub.files


def run(hub: Hub, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mitune", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_of_the_test"},
        check=False,
    )


def test_the_verb_says_what_it_does(made: Path, hub: Hub, tmp_path: Path) -> None:
    done = run(hub, "push", "--folder", made / "adapter", "--repo", "someone/first")
    assert done.returncode == 0, done.stderr
    assert "to the private model someone/first" in done.stdout
    assert f"uploaded: {hub.address}/someone/first" in done.stdout
    assert "models/someone/first/README.md" in hub.files


def test_an_export_is_pushed_where_it_is_asked(made: Path, hub: Hub, tmp_path: Path) -> None:
    out, first = tmp_path / "kohya", made / "adapter"
    command = ("export", "--model", "shapes-v1", "--adapter", first, "--format", "kohya")
    command = (*command, "--out", out, "--push-to-hub")
    wrong = run(hub, *command, "name")
    assert wrong.returncode == 2
    assert not out.exists()
    assert run(hub, *command, "someone/kohya").returncode == 0
    assert {n.rpartition("/")[2] for n in hub.files} == {"README.md", "kohya.safetensors"}


def stray(folder: Path, secret: Path) -> None:
    """Files of others, hidden ones, and a link to a secret."""
    for name in (".env", "private.key", "passwords.txt", ".cache/x", "unet/../.git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
    (folder / "000099.png").symlink_to(secret)


def test_only_files_of_the_kind_are_taken(made: Path, hub: Hub, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    model = mitune.load("shapes-v1")
    found = mitune.FineTuningSet.open(made / "set")
    mitune.export_pictures(model, found, tmp_path / "pictures", "imagefolder")
    merge(model, made / "adapter", tmp_path / "merged")
    for name in ("set", "adapter"):
        shutil.copytree(made / name, tmp_path / name)
    for name, kind in (
        ("pictures", "datasets"),
        ("merged", "models"),
        ("set", "datasets"),
        ("adapter", "models"),
    ):
        own = set(prepare_upload(tmp_path / name, "me/x").files)
        stray(tmp_path / name, secret)
        (tmp_path / name / "foreign.safetensors").write_bytes(b"foreign")
        hub.files.clear()
        mitune.push_to_hub(tmp_path / name, "me/x")
        assert {path.removeprefix(f"{kind}/me/x/") for path in hub.files} == own
        assert b"secret" not in hub.files.values()
    assert (
        "unet/diffusion_pytorch_model.safetensors"
        in prepare_upload(tmp_path / "merged", "me/x").files
    )


def test_a_folder_of_others_is_refused(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\ntags:\n- other\n---\n# Mine\n")
    (tmp_path / "private.key").write_text("secret")
    with pytest.raises(UserError, match=r"holds no README.md of mitune's"):
        mitune.push_to_hub(tmp_path, "me/x")
    assert not hub.files


def test_names_with_signs_of_patterns_are_names(made: Path, hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "mine[1]"
    export_adapter(mitune.load("shapes-v1"), made / "adapter", out, "kohya")
    mitune.push_to_hub(out, "me/x")
    assert "models/me/x/mine[1].safetensors" in hub.files
