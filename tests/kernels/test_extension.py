"""The extension's build and its absence: what is said, and what goes on working."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mitune_kernels
import pytest
import torch
from mitune_kernels import implementations, normal

REPOSITORY = Path(__file__).parents[2]
NVCC = shutil.which("nvcc")
PROBE = """
import sys
if {blocked}:
    sys.modules["triton"] = None
import torch, mitune_kernels
key, step = torch.ones(2, 4, dtype=torch.int64), torch.arange(2)
print(mitune_kernels.implementations()["cpp"])
print(mitune_kernels.implementations()["triton"])
print(mitune_kernels.normal(key, step, (3,)).tolist())
try:
    mitune_kernels.normal(key, step, (3,), impl="cpp")
except RuntimeError as error:
    print(error)
from mitune import doctor
print(doctor.tell(doctor.examine()))
"""


def test_the_extension_is_built() -> None:
    """Otherwise every test of the compiled kernels is silently left out."""
    if os.environ.get("MITUNE_BUILD_CPP") == "0":
        pytest.skip("MITUNE_BUILD_CPP=0")
    assert implementations()["cpp"] is None


@pytest.mark.parametrize(
    ("library", "reason", "triton_blocked"),
    [
        (None, "the C++ extension is not built", True),
        (b"no library", "the C++ extension does not load", False),
    ],
)
def test_works_without_the_extension_and_says_why(
    library: bytes | None, reason: str, triton_blocked: bool, tmp_path: Path
) -> None:
    package = tmp_path / "mitune_kernels"
    source = Path(mitune_kernels.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if library is not None:
        (package / "_cpp.abi3.so").write_bytes(library)
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(blocked=triton_blocked)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    missing, triton_missing, values, refusal, *told = run.stdout.splitlines()
    assert f"step: cpp        {missing}" in told
    assert f"step: triton     {triton_missing}".replace("None", "available") in told
    assert missing.startswith(reason)
    assert triton_missing.startswith("triton is not installed") == triton_blocked
    assert "MITUNE_BUILD_CPP=1 pip install" in missing
    assert refusal == f"impl 'cpp' is not available: {missing}"
    key, step = torch.ones(2, 4, dtype=torch.int64), torch.arange(2)
    assert values == str(normal(key, step, (3,)).tolist())


def build(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={out}", f"--build-temp={out}"]
    return subprocess.run(
        command, env={**os.environ, **settings}, cwd=REPOSITORY, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MITUNE_BUILD_CUDA", "1", "MITUNE_BUILD_CUDA=1: nvcc is not found"),
        ("MITUNE_BUILD_CPP", "yes", "MITUNE_BUILD_CPP='yes': expected auto, 0 or 1"),
    ],
)
def test_a_build_that_cannot_be_had_fails_in_one_line(
    name: str, value: str, line: str, tmp_path: Path
) -> None:
    run = build(tmp_path, CUDA_HOME=str(tmp_path), **{name: value})
    assert run.returncode != 0
    assert run.stderr.startswith(line)
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(("setting", "fails"), [("auto", False), ("1", True)])
def test_a_missing_compiler_is_said_and_fatal_only_on_demand(
    setting: str, fails: bool, tmp_path: Path
) -> None:
    run = build(tmp_path, MITUNE_BUILD_CPP=setting, CC="/bin/false", CXX="/bin/false")
    assert (run.returncode != 0) == fails
    assert "/bin/false" in run.stdout + run.stderr
    if torch.version.cuda is None:
        assert "mitune: CUDA kernels left out: " in run.stdout
    assert not list(tmp_path.rglob("*.so"))


def test_metadata_is_read_without_torch() -> None:
    script = "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['setup.py', '--version'];"
    script += "runpy.run_path('setup.py')"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "0.1.0"
