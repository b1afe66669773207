"""The CUDA kernels compile for GPUs without one, without spills, and load into a torch for CPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_oracles import IMPLS
from test_extension import NVCC, build

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no CUDA toolkit")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The library, and what the compilers printed."""
    out = tmp_path_factory.mktemp("cuda")
    run = build(out, MITUNE_BUILD_CPP="0", MITUNE_BUILD_CUDA="1")
    assert run.returncode == 0, run.stderr
    (library,) = out.rglob("_cuda*.so")
    return library, run.stdout + run.stderr


def test_cuda_is_tested() -> None:
    """On a GPU, or compiled for the CPU; otherwise every test of its kernels is left out without a
    word."""
    assert "cuda" in IMPLS


@needs_nvcc
def test_it_compiles_for_ampere_and_hopper_without_spills(built: tuple[Path, str]) -> None:
    """65 536 registers: with at most 128 a thread, two blocks of 256 are resident on a
    multiprocessor."""
    log = built[1]
    kernels = re.findall(r"Compiling entry function '\w+' for 'sm_(80|90)'", log)
    # Of a step and of a score: three types, wide or not; a step's end; renoise: wide or not; noise.
    assert sorted(kernels) == ["80"] * 16 + ["90"] * 16
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill \w+, (\d+) bytes", log)
    assert frames == [("0", "0", "0")] * 32
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) == 32
    assert max(registers) <= 128


@needs_nvcc
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_loads_without_a_gpu_and_refuses_cpu_tensors(built: tuple[Path, str]) -> None:
    script = f"""
import torch
from mitune_kernels import dispatch, normal, ops
torch.ops.load_library({str(built[0])!r})
key, step = torch.ones(2, 4, dtype=torch.int64), torch.arange(2)
print(torch._C._dispatch_has_kernel_for_dispatch_key("mitune::step_out_cuda", "CUDA"))
dispatch.CUDA_MISSING = None
print(dispatch.implementations()["cuda"])
try:
    normal(key, step, (3,), impl="cuda")
except RuntimeError as error:
    print(error)
try:
    torch.ops.mitune.normal_cuda(key, step, 3)
except NotImplementedError as error:
    print(str(error)[:52])
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [
        "True",
        "torch sees no CUDA GPU",
        "impl 'cuda' is not available: torch sees no CUDA GPU",
        "Could not run 'mitune::normal_cuda' with arguments f",
    ]
