"""The documentation: it builds without a warning, its commands are the program's, its examples and
its notebook run."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mitune.cli.commands import COMMANDS
from mitune.cli.program import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
NOW = [page for page in PAGES if page.name != "log.md"]
"""The laboratory notes name commands as they were."""
LINES = [
    (page.name, line)
    for page in NOW
    for block in (
        *re.findall(r"^```\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE),
        *re.findall(r"^    .+$", page.read_text(), re.MULTILINE),
    )
    for line in re.findall(r"^ *mitune (.+)$", block, re.MULTILINE)
]
MAKE = [
    (page.name, target)
    for page in NOW
    for target in re.findall(r"`make ([a-z-]+)`", page.read_text())
]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_command_line_parses(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    assert isinstance(parse(words), COMMANDS[words[0]])


@pytest.mark.parametrize(("page", "target"), sorted(set(MAKE)))
def test_every_make_target_exists(page: str, target: str) -> None:
    found = re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found or target.startswith("study-")


def test_code_blocks_are_python() -> None:
    blocks = [
        (page.name, code)
        for page in NOW
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert len(blocks) > 5
    for name, code in blocks:
        compile(code, name, "exec")


def test_the_site_builds_without_a_warning_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    made = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env=quiet
    )
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        asked = re.findall(
            r"<(?:script|img|link|iframe)[^>]* (?:src|href)=\"?(https?://[^\" >]+)",
            page.read_text(),
        )
        assert asked == []
    reference = (tmp_path / "reference" / "index.html").read_text()
    for name in ("build_set", "TuneConfig", "pointwise_mi", "all_latents"):
        assert name in reference


def test_the_first_page_leads_to_every_other() -> None:
    listed = re.findall(r"(\w+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert set(listed) == {page.name for page in PAGES}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", ROOT / "examples" / f"{name}.py"
    )
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_example_of_aligning(tmp_path: Path, capsys) -> None:
    few = {"candidates": 2, "steps": 3, "draws": 2, "iterations": 1, "batch": 2}
    adapter = example("align").main(out=str(tmp_path), **few)
    assert (adapter / "pytorch_lora_weights.safetensors").is_file()
    assert "nats" in capsys.readouterr().out


def test_the_example_of_scoring(tmp_path: Path, capsys) -> None:
    from mitune.core.images import as_pictures
    from mitune.worlds.known import WORLDS

    right, wrong = "a red circle and a blue square", "a green triangle and a yellow circle"
    files = []
    for number, prompt in enumerate((wrong, right)):
        path = tmp_path / f"{number}.png"
        as_pictures(WORLDS["shapes"].drawings(prompt, 1, 0))[0].save(path)
        files.append(str(path))
    ranked = example("score_pictures").main(right, *files, draws=32)
    assert [Path(path).name for _, path in ranked] == ["1.png", "0.png"]
    assert "1.png" in capsys.readouterr().out


def test_the_example_of_the_best_of_many(tmp_path: Path, exact_model, capsys) -> None:
    out = tmp_path / "best.png"
    example("best_of").main(exact_model, "a red circle", str(out), n=2, steps=2)
    assert Image.open(out).size == exact_model.picture_size[::-1]
    capsys.readouterr()


def test_the_notebook_runs_on_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("MITUNE_MODEL", "shapes")
    monkeypatch.setenv("MITUNE_OUT", str(tmp_path))
    notebook = json.loads((ROOT / "examples" / "one_gpu.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), names)
    assert all(Path(page).is_file() for page in names["pages"])
    assert "strict" in capsys.readouterr().out
