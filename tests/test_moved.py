"""Modules by their former names."""

import importlib
import subprocess
import sys

import pytest

from mitune.models.family import families
from mitune.moved import MOVED

EVERY = MOVED | {former: today for family in families() for former, today in family.moved.items()}


@pytest.mark.parametrize("former", sorted(name for name in EVERY if not name.endswith("__main__")))
def test_a_former_name_is_the_module_itself(former):
    today = importlib.import_module(f"mitune.{EVERY[former]}")
    sys.modules.pop(f"mitune.{former}", None)
    with pytest.warns(DeprecationWarning, match=f"mitune.{former} is mitune.{EVERY[former]} now"):
        assert importlib.import_module(f"mitune.{former}") is today
    assert today.__spec__.name == today.__name__ == f"mitune.{EVERY[former]}"


def test_imports_as_they_were_written():
    """The warning points at the line that has the former name, once."""
    script = (
        "import mitune\n"
        "from mitune.families.stable_diffusion import StableDiffusion\n"
        "from mitune.generate import Engine, generate\n"
        "from mitune.tuning import TuneConfig, adapter\n"
        "import mitune.shapes.model as shapes\n"
        "assert shapes.PRESET and callable(mitune.generate) and callable(mitune.score)\n"
        "assert mitune.estimate.pointwise_mi\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning:__main__", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line for line in run.stderr.splitlines() if "DeprecationWarning" in line]
    for number, name in ((2, "families.stable_diffusion"), (3, "generate"), (4, "tuning")):
        assert [line for line in told if line.startswith(f"<string>:{number}") and name in line]


def test_programs_by_their_former_names():
    run = subprocess.run(
        [sys.executable, "-m", "mitune.shapes.pretrain", "--help"], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout[:6]) == (0, "usage:")


def test_a_name_that_never_was():
    with pytest.raises(ModuleNotFoundError, match=r"mitune\.tuning\.nothing"):
        importlib.import_module("mitune.tuning.nothing")
