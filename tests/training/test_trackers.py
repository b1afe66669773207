"""TensorBoard as it reads its own files, and W&B offline: each step once."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from outcome import Killed
from PIL import Image
from tiny_model import TinyModel, TinySet, config

from mitune.adapters.adapter_file import FILE
from mitune.core.errors import UserError
from mitune.training.callbacks import Watch
from mitune.training.loop import tune

FEW = config(batch=2, targets=("to_q",))
NUMBERS = ("loss", "grad_norm", "lr", "seconds")


class HeldOut:
    prompts = ("something else",)
    settings = {"by": "test"}  # noqa: RUF012

    def mi(self) -> float:
        return 1.5


def picture(path: Path) -> None:
    Image.new("RGB", (12, 8), (255, 0, 0)).save(path)


def watch(log_to: str) -> Watch:
    return Watch(
        held_out=HeldOut(), held_out_every=2, samples=picture, validation_steps=3, log_to=log_to
    )


def run(out: Path, log_to: str, kill: int | None = None) -> Path:
    def progress(done: int, *_: object) -> None:
        if done == kill:
            raise Killed

    return tune(TinyModel(), TinySet(), out, FEW, watch=watch(log_to), progress=progress)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kill", [2, 5])
def test_tensorboard_has_every_step_once(tmp_path: Path, kill: int) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Killed):
        run(tmp_path, "tensorboard", kill)
    run(tmp_path, "tensorboard")
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(shown.Tags()["scalars"]) == {*NUMBERS, "held_out_mi"}
    logged = lines(tmp_path)
    for name in ("loss", "grad_norm", "lr"):
        found = [(event.step, event.value) for event in shown.Scalars(name)]
        assert found == [(n["step"], pytest.approx(n[name], rel=1e-6)) for n in logged]
    assert [(e.step, e.value) for e in shown.Scalars("held_out_mi")] == [
        (2, 1.5),
        (4, 1.5),
        (6, 1.5),
    ]
    pictures = shown.Images("samples")
    assert [(p.step, p.width, p.height) for p in pictures] == [(3, 12, 8), (6, 12, 8)]


class Server:
    """What stands for W&B: runs by their id, and as there no step back."""

    def __init__(self, module: ModuleType) -> None:
        self.asked: list[dict[str, Any]] = []
        self.runs: dict[str, dict[int, dict[str, Any]]] = {}
        self.finished = 0
        module.init = self.init
        module.Image = lambda path: ("picture", Image.open(path).size)
        module.Error = RuntimeError

    def init(self, **options: Any) -> "Server.Run":
        self.asked.append(options)
        return Server.Run(self, self.runs.setdefault(options["id"], {}))

    class Run:
        def __init__(self, server: "Server", history: dict[int, dict[str, Any]]) -> None:
            self.server, self.history = server, history
            self.step = max(history, default=-1) + 1

        def log(self, values: dict[str, Any], step: int) -> None:
            assert step >= max(self.history, default=0), "a step back"
            assert not values.keys() & self.history.get(step, {}).keys(), "a step twice"
            self.history.setdefault(step, {}).update(values)

        def finish(self) -> None:
            self.server.finished += 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    module = ModuleType("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return Server(module)


@pytest.mark.parametrize("kill", [2, 5])
def test_wandb_has_every_step_once(tmp_path: Path, server: Server, kill: int) -> None:
    out = tmp_path / "mine"
    with pytest.raises(Killed):
        run(out, "wandb", kill)
    assert server.finished == 1
    run(out, "wandb")
    (history,) = server.runs.values()
    assert list(history) == [1, 2, 3, 4, 5, 6]
    for line in lines(out):
        shown = history[line["step"]]
        assert {name: shown[name] for name in ("loss", "grad_norm", "lr")} == {
            name: line[name] for name in ("loss", "grad_norm", "lr")
        }
        assert ("held_out_mi" in shown) == (line["step"] % 2 == 0)
        assert shown.get("samples") == (("picture", (12, 8)) if line["step"] % 3 == 0 else None)
    assert server.finished == len(server.asked)
    asked = server.asked[-1]
    assert (asked["project"], asked["name"], asked["resume"]) == ("mitune", "mine", "allow")
    assert asked["config"] == json.loads((out / "run.json").read_text())["settings"]
    # Another folder is another run, of the same settings too.
    run(tmp_path / "other", "wandb")
    assert len(server.runs) == 2


def test_wandb_takes_the_project_of_its_environment(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "pictures")
    run(tmp_path, "wandb")
    assert server.asked[0]["project"] == "pictures"


def test_what_wandb_refuses_is_one_line(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("api_key not configured (no-tty).\nCall wandb.login")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError) as caught:
        run(tmp_path, "wandb")
    assert "\n" not in str(caught.value)
    assert "W&B refuses this run (api_key not configured (no-tty).)" in str(caught.value)


def test_a_tracker_changes_nothing(tmp_path: Path, server: Server) -> None:
    plain = tune(TinyModel(), TinySet(), tmp_path / "plain", FEW)
    run(tmp_path / "logged", "wandb")
    assert (plain / FILE).read_bytes() == (tmp_path / "logged" / FILE).read_bytes()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as caught:
        Watch(log_to=name)
    assert f"pip install 'mitune[{name}]'" in str(caught.value)
    assert "\n" not in str(caught.value)
