#!/usr/bin/env bash
# Everything that wants a GPU, in three calls of at most ten minutes each:
#
#     bench/gpu.sh OUT kernels    correctness of every implementation there, the captured tick, the
#                                 CUDA kernels under compute-sanitizer, timings of the step
#     bench/gpu.sh OUT ladder     set construction at SD-2.1-base's size, from the authors' loop to ours
#
#     bench/gpu.sh OUT training   the trainers at that size, from the authors' to ours
#
# Without a second argument, all. Results go to the folder OUT (default gpu-results); what is worth
# keeping of them belongs into bench/results/DEVICE/ and docs/measured.md.
#
# Needs: a CUDA GPU; torch >= 2.11 with its triton; diffusers, transformers, peft, accelerate,
# safetensors, pyarrow, tyro, tqdm, pillow, numpy, pytest, pytest-benchmark, nvidia-ml-py; nvcc, or
# _cuda.abi3.so and _cpp.abi3.so built elsewhere (by 'make cuda') in kernels/mitune_kernels.
# compute-sanitizer where the toolkit has it. diffusers, tyro, docstring_parser, typeguard, pyarrow,
# pytest-benchmark, py-cpuinfo and nvidia-ml-py are what a plain torch machine usually lacks.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
part=${2:-all}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$PWD/.cache}
failed=0

"$python" -m mitune.cli doctor | tee "$out/doctor.txt"

if [ "$part" = all ] || [ "$part" = kernels ]; then
    if command -v nvcc > /dev/null; then
        MITUNE_BUILD_CPP=1 MITUNE_BUILD_CUDA=1 "$python" setup.py -q build_ext --inplace
    fi
    "$python" -m pytest -q tests/kernels tests/generate/test_on_gpu.py \
        tests/tuning/test_captured.py | tee "$out/kernels.txt" || failed=1
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
fi

if [ "$part" = all ] || [ "$part" = ladder ]; then
    # Of the paper's 50 steps 20, so that the baselines end in time; the projection takes that into
    # account. Every rung that ran is in ladder.txt even if the time does not suffice for all.
    timeout 570 "$python" -m mitune.cli bench generate --device cuda --model sd21-base-random \
        --prompts 2 --candidates 50 --steps 20 --slots 50 --json | tee "$out/ladder.txt" || failed=1
fi

if [ "$part" = all ] || [ "$part" = training ]; then
    # The rungs that compile come last but for the fair one; twenty steps are a steady state.
    timeout 570 "$python" -m mitune.cli bench train --device cuda --model sd21-base-random \
        --batch 64 --micro-batch 16 --iterations 20 --json | tee "$out/training.txt" || failed=1
fi
exit $failed
