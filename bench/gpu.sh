#!/usr/bin/env bash
# Everything that wants a GPU, in one call: correctness of every implementation there, the CUDA
# kernels under compute-sanitizer, and timings. Writes to the folder given ($1, default gpu-results).
#
# Needs: a CUDA GPU; torch >= 2.11 with its triton; diffusers, transformers, peft, safetensors,
# pyarrow, tyro, pillow, numpy, pytest, pytest-benchmark; nvcc, or _cuda.abi3.so and _cpp.abi3.so built
# elsewhere (by 'make cuda') in kernels/mitune_kernels. compute-sanitizer where the toolkit has it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"

if command -v nvcc > /dev/null; then
    MITUNE_BUILD_CPP=1 MITUNE_BUILD_CUDA=1 "$python" setup.py -q build_ext --inplace
fi
"$python" -m mitune.cli doctor | tee "$out/doctor.txt"
failed=0
"$python" -m pytest -q tests/kernels | tee "$out/kernels.txt" || failed=1
if command -v compute-sanitizer > /dev/null; then
    compute-sanitizer --error-exitcode 1 "$python" -m pytest -q tests/kernels \
        -k "cuda and (formulas or loop or score_follows or keyed_noise)" |
        tee "$out/sanitizer.txt" || failed=1
else
    echo "compute-sanitizer is not installed: not run" | tee "$out/sanitizer.txt"
fi
"$python" -m mitune.cli bench step --device cuda --json | tee "$out/step.txt" || failed=1
"$python" -m pytest bench/bench_step.py -q --benchmark-only \
    --benchmark-json "$out/bench_step.json" | tee "$out/bench_step.txt" || failed=1
exit $failed
