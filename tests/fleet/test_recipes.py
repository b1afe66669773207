"""The recipes in examples/fleet: each file reads as what it is, and its command is run as its
scheduler would run it, with the first edition of the embedded model in the place of theirs."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mitune.cli.commands.build import Build
from mitune.cli.program import parse
from mitune.sets import FineTuningSet
from mitune.sets.merge import merge

RECIPES = Path(__file__).parents[2] / "examples" / "fleet"
QUICK = "--limit 9 --candidates 2 --steps 2 --draws 1 --quiet"


def read(name: str) -> Any:
    return yaml.safe_load((RECIPES / name).read_text())


def run(script: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a script by bash, with this Python's mitune as the command."""
    program = folder / "bin" / "mitune"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mitune "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def on_the_embedded_model(command: str, folder: Path) -> str:
    """The command, of another model, into another folder, and quick."""
    (folder / "prompts.txt").write_text("".join(f"{n} red squares\n" for n in range(9)))
    command = command.replace("stabilityai/stable-diffusion-2-1-base", "shapes-v1")
    command = re.sub(r'--device "[^"]*"', "--device cpu", command)
    command = command.replace("/shared", str(folder))
    return re.sub(r"(mitune build [^\n&]*)", rf"\1 {QUICK}", command)


def test_slurm(tmp_path: Path) -> None:
    script = (RECIPES / "slurm.sh").read_text()
    assert "#SBATCH --array=0-7" in script
    (tmp_path / "prompts.txt").write_text("".join(f"{n} red squares\n" for n in range(9)))
    for number in (5, 6):  # of an array that begins at 5
        run(
            script,
            tmp_path,
            {
                "MODEL": "shapes-v1",
                "PROMPTS": str(tmp_path / "prompts.txt"),
                "OUT": str(tmp_path / "set"),
                "OPTIONS": QUICK,
                "SLURM_ARRAY_TASK_ID": str(number),
                "SLURM_ARRAY_TASK_MIN": "5",
                "SLURM_ARRAY_TASK_COUNT": "2",
            },
        )
    assert FineTuningSet.open(tmp_path / "set").complete


def test_an_indexed_job(tmp_path: Path) -> None:
    job = read("indexed-job.yaml")
    assert job["spec"]["completionMode"] == "Indexed"
    container = job["spec"]["template"]["spec"]["containers"][0]
    (command,) = container["args"]
    assert f"/{job['spec']['completions']}" in command
    assert container["volumeMounts"][0]["mountPath"] == "/shared"
    command = on_the_embedded_model(command, tmp_path).replace("INDEX/8", "INDEX/2")
    for number in (1, 0):
        run(command, tmp_path, {"JOB_COMPLETION_INDEX": str(number)})
    assert FineTuningSet.open(tmp_path / "set").complete


def test_skypilot(tmp_path: Path) -> None:
    task = read("skypilot.yaml")
    assert set(task) == {"name", "num_nodes", "resources", "file_mounts", "setup", "run"}
    assert list(task["file_mounts"]) == ["/shared"]
    run(
        on_the_embedded_model(task["run"], tmp_path),
        tmp_path,
        {
            "SKYPILOT_NUM_GPUS_PER_NODE": "2",
            "SKYPILOT_NUM_NODES": "1",
            "SKYPILOT_NODE_RANK": "0",
        },
    )
    shares = [tmp_path / "set-0", tmp_path / "set-1"]
    assert merge(tmp_path / "set", shares).joined.complete


def test_kuberay() -> None:
    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    command = parse(shlex.split(job["spec"]["entrypoint"])[1:])
    assert isinstance(command, Build)
    assert command.ray == "auto"
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]


def test_the_image_installs_as_the_readme_says() -> None:
    text = (RECIPES / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) ", text, re.MULTILINE)
    assert instructions == ["FROM", "WORKDIR", "COPY", "RUN", "WORKDIR", "ENTRYPOINT", "CMD"]
    assert "pip install --no-cache-dir --no-build-isolation '.[fleet]'" in text


@pytest.mark.parametrize("path", sorted(RECIPES.iterdir()), ids=lambda path: path.name)
def test_every_command_parses(path: Path) -> None:
    text = re.sub(r"\\\n|\n {14}", " ", path.read_text())
    for line in re.findall(r"mitune (build[^\n]*)", text):
        line = re.sub(r"\$\{OPTIONS:-\}|&$", "", line.strip())
        line = re.sub(r'"[^"]*\$[^"]*/?[^"]*"|"\$share"', "x", line)
        words = [w for w in shlex.split(line) if w]
        assert isinstance(parse(words), Build)
