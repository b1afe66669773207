"""Triton without a GPU: its kernels are tested, compile for GPUs, and say why they do not run."""

import json
import os
import subprocess
import sys

import pytest
import torch
from kernel_oracles import IMPLS, random_keys
from mitune_kernels import normal

COMPILE = """
import json, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mitune_kernels import triton_kernels, triton_ops

KEYS = dict(key="*i64", step="*i64", count="i32", BLOCK="constexpr")
STEP = dict(
    uncond="*bf16", cond="*bf16", z="*fp32", score="*fp32", index="*i64", key="*i64", table="*fp32",
    z_next="*fp32", score_next="*fp32", terms="*fp32", model_input="*bf16", index_next="*i64",
    t_next="*fp32", guidance="fp32", rows="i32", table_rows="i32", count="i32", channels="i32",
)
RENOISE = STEP | dict(
    z0="*fp32", row="*i64", draw="*i64", levels="*fp32", out="*bf16", given="i32",
    COPIES="constexpr", BLOCK="constexpr",
)
plain = dict.fromkeys(
    ("LAST_UNCOND", "LAST_COND", "LAST_Z", "LAST_NEXT", "LAST_INPUT"), False
)
last = dict.fromkeys(plain, True)
functional = dict(IN_PLACE=False, HISTORY=False, COPIES=0, MOVES_INDEX=False, T_COPIES=0)
loop = dict(IN_PLACE=True, HISTORY=True, COPIES=2, MOVES_INDEX=True, T_COPIES=2)
STEP |= dict.fromkeys([*plain, *loop, "BLOCK"], "constexpr")
kernels = {
    "step": (triton_kernels.step_kernel, STEP, plain | functional),
    "step_channels_last": (triton_kernels.step_kernel, STEP, last | functional),
    "step_loop": (triton_kernels.step_kernel, STEP, plain | loop),
    "step_loop_channels_last": (triton_kernels.step_kernel, STEP, last | loop),
    "renoise": (triton_kernels.renoise_kernel, RENOISE, dict(COPIES=2)),
    "renoise_score": (triton_kernels.renoise_score_kernel, RENOISE, {}),
    "normal": (triton_kernels.normal_kernel, KEYS | {"out": "*fp32"}, {}),
    "philox": (triton_kernels.philox_kernel, KEYS | {"out": "*i64"}, {}),
}
dump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
for name, (kernel, signature, constants) in kernels.items():
    constants = constants | {"BLOCK": triton_ops.BLOCK}
    signature = {argument: signature[argument] for argument in kernel.arg_names}
    for capability in (80, 90):
        compiled = triton.compile(
            ASTSource(kernel, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options=triton_ops.OPTIONS,
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage = subprocess.run(
                [dump, "-res-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
        words = dict(word.split(":") for word in usage.split() if word.count(":") == 1)
        row = {key: int(words[key]) for key in ("REG", "STACK", "LOCAL")}
        row |= {"shared": compiled.metadata.shared, "fma": compiled.asm["ptx"].count("fma.rn")}
        print(json.dumps({"kernel": name, "capability": capability} | row))
"""


def test_triton_is_tested() -> None:
    """Otherwise every test of its kernels is silently left out."""
    if sys.platform != "linux":
        pytest.skip("Triton is for Linux")
    assert "triton" in IMPLS


def test_it_compiles_for_ampere_and_hopper_within_its_budget() -> None:
    """To machine code, without a GPU. 64 warps of 32 threads share 65 536 registers: with 128 a
    thread, 4 programs of 4 warps are resident on a multiprocessor; those beyond 96 fold the sums in
    an order that no layout changes. No spills; no contraction, which the definition of the noise
    forbids."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 16
    for row in rows:
        assert (row["STACK"], row["LOCAL"], row["fma"]) == (0, 0, 0), row
        assert row["REG"] <= 128, row
        assert row["shared"] <= 8192, row


PROBE = """
import sys
if {blocked}:
    sys.modules["triton"] = None
import torch, mitune_kernels
key, step = torch.ones(2, 4, dtype=torch.int64), torch.arange(2)
print(mitune_kernels.implementations()["triton"])
print(mitune_kernels.normal(key, step, (3,)).tolist())
try:
    mitune_kernels.normal(key, step, (3,), impl="triton")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("blocked", "reason"),
    [(True, "triton is not installed; pip install triton"), (False, "torch sees no CUDA GPU")],
)
def test_works_without_it_and_says_why(blocked: bool, reason: str) -> None:
    if not blocked:
        pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(blocked=blocked)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    missing, values, refusal = run.stdout.splitlines()
    assert missing.startswith(reason)
    assert refusal == f"impl 'triton' is not available: {missing}"
    key, step = torch.ones(2, 4, dtype=torch.int64), torch.arange(2)
    assert values == str(normal(key, step, (3,)).tolist())


@pytest.mark.skipif("triton" not in IMPLS, reason="Triton is not installed")
def test_it_runs_where_it_was_told_and_nowhere_else() -> None:
    key, step = (t.to("meta") for t in random_keys(2))
    with pytest.raises(ValueError, match="impl 'triton' runs on"):
        normal(key, step, (3,), impl="triton")
