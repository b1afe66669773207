#!/usr/bin/env bash
# All that wants a GPU, in two calls that fit into fifteen minutes of one:
#
#     bench/gpu.sh OUT first      550 s at most: doctor; the GPU's tests while what the ladder needs is
#                                 compiled; the step against a copy, which says what auto may take;
#                                 the ladder at SD-2.1-base's size; compute-sanitizer
#     bench/gpu.sh OUT second     180 s at most: the trainers, and one stage again (GPU_AGAIN)
#     bench/gpu.sh OUT all        both
#     bench/gpu.sh OUT all --tiny a rehearsal on a CPU, with a tiny model and nothing compiled
#
# Every stage is a process with a time limit of its own, and none waits for another's success. Every
# figure is a JSON line in OUT/*.jsonl as soon as it is known; the same call again goes on from
# there. After each stage OUT/results.tgz holds what there is. GPU_PATIENCE multiplies every limit, for
# a rehearsal on a slow machine. What is worth keeping belongs into bench/results/DEVICE/ and docs/log.md.
#
# Needs: a CUDA GPU; torch >= 2.11 with its triton; transformers, peft, accelerate, safetensors,
# pyarrow, pyyaml, tqdm, pillow, numpy, scipy, statsmodels, pytest; diffusers, or its wheel in .whl/; _cuda.abi3.so and _cpp.abi3.so, built here or elsewhere ('make cuda'), in
# kernels/mitune_kernels. nvidia-ml-py and compute-sanitizer where there are such.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results} part=${2:-all} tiny=${3:-}
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
patience=${GPU_PATIENCE:-1}
failed=0
begin=$(date +%s)
limit=$begin

say() { echo "[$(( $(date +%s) - begin )) s] $*"; }
left() { echo $(( limit - $(date +%s) )); }
pack() {
    # Stages that run beside this one may write meanwhile: what they add is in the next archive.
    tar czf "$out/results.part" -C "$out" --exclude='results.*' --warning=no-file-changed . ||
        [ $? = 1 ] && mv "$out/results.part" "$out/results.tgz"
}
# stage SECONDS NAME COMMAND...: at most so long, and never past the end of the call.
stage() {
    local most=$(( $1 * patience )) name=$2 now code
    shift 2
    now=$(left)
    if (( now < 15 )); then say "$name: no time is left"; failed=1; return 1; fi
    (( most > now - 8 )) && most=$(( now - 8 ))
    say "$name, at most $most s"
    timeout -k 5 "$most" "$@" > "$out/$name.txt" 2> "$out/$name.err"
    code=$?
    (( code == 0 )) || { failed=1; tail -n 3 "$out/$name.err"; }
    say "$name: exit $code; $(tail -n 1 "$out/$name.txt" | cut -c1-160)"
    pack
    return $code
}

if compgen -G ".whl/*.whl" > /dev/null; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" \
        .whl/*.whl || exit 1
fi
export PYTHONPATH="$PWD:$PWD/kernels${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}"
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$PWD/.cache}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_NO_ADVISORY_WARNINGS=1
mitune=("$python" -m mitune.cli.main)
kernel_tests=(tests/kernels tests/engine/test_on_gpu.py tests/training/test_captured.py
    --ignore=tests/kernels/test_extension.py --ignore=tests/kernels/test_cuda_build.py
    --ignore=tests/kernels/test_triton.py)
if [ "$tiny" = --tiny ]; then
    device=cpu jobs=() stages=(--device cpu --tiny --slots 2 --candidates 3 --steps 5 --micro-batch 1)
    size=(--model tiny-random --prompts 2 --candidates 3 --steps 5 --slots 2 --slow-prompts 1)
    rungs=(fused half exact "halving late" threshold)
    slow=(authors slots)
    trained=(--model tiny-random --prompts 4 --batch 2 --micro-batch 1 --iterations 1)
    trainers=(merged peft authors)
    all_rows=(5)
    kernel_tests=(tests/kernels/test_noise_op.py -k "reference and golden or words")
    sanitized=(tests/kernels/test_step_op.py -k "cuda and no_rows")
else
    device=cuda
    jobs=(-n 4)
    "$python" -c "import xdist" 2> /dev/null || jobs=()
    stages=()
    size=(--model sd21-base-random --prompts 2 --candidates 50 --steps 20 --slots 50 --slow-prompts 1)
    # The most telling first: a stage that is stopped has what it began with.
    rungs=(captured "captured triton" "captured cuda" fused exact "halving late" "halving early"
        threshold compiled)
    slow=(authors fair "exact float32")
    trained=(--model sd21-base-random --batch 64 --micro-batch 16 --iterations 4)
    trainers=(ours fair merged authors captured compiled peft)
    all_rows=(50 128 1024)
    sanitized=(tests/kernels -k "cuda and (formulas or loop or score_follows or keyed_noise)")
fi

first() {
    limit=$(( $(date +%s) + 540 * patience ))
    nvidia-smi > "$out/nvidia-smi.txt" 2>&1
    stage 60 doctor "${mitune[@]}" doctor && cat "$out/doctor.txt"
    # Side by side: the tests, and whatever compiles.
    local pids=() name
    timeout $(( 170 * patience )) "$python" -m pytest -q -p no:cacheprovider "${jobs[@]}" "${kernel_tests[@]}" \
        > "$out/tests.txt" 2>&1 &
    local tests=$!
    for name in compile-ours compile-fair compile-training; do
        timeout $(( 170 * patience )) "$python" bench/stages.py "$name" --out "$out" "${stages[@]}" \
            > "$out/$name.txt" 2> "$out/$name.err" &
        pids+=("$!:$name")
    done
    wait "$tests" || failed=1
    say "tests: $(tail -n 1 "$out/tests.txt")"
    for name in "${pids[@]}"; do
        wait "${name%%:*}" && say "${name#*:}: exit 0" ||
            { failed=1; say "${name#*:}: failed: $(tail -n 1 "$out/${name#*:}.err")"; }
    done
    pack
    local rows
    for rows in "${all_rows[@]}"; do
        stage 20 "step-$rows" "${mitune[@]}" bench step --device "$device" --rows "$rows" \
            --no-compiled --figures "$out/step-$rows.jsonl"
    done
    stage 120 ladder "${mitune[@]}" bench generate --device "$device" "${size[@]}" \
        --precision bfloat16 --figures "$out/ladder.jsonl" --only "${rungs[@]}"
    stage 30 profile "$python" bench/stages.py profile --out "$out" "${stages[@]}"
    local rung
    for rung in "${slow[@]}"; do
        stage 75 "ladder-${rung// /-}" "${mitune[@]}" bench generate --device "$device" \
            "${size[@]}" --precision bfloat16 --figures "$out/ladder.jsonl" --only "$rung" --json
    done
    # In a block of torch's allocator, which holds many tensors, an access past one's end does not
    # show; and of all kernels ours alone are looked at.
    if command -v compute-sanitizer > /dev/null; then
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage 60 sanitizer compute-sanitizer --tool memcheck \
            --kernel-name kns=mitune --error-exitcode 9 "$python" -m pytest -q -x \
            -p no:cacheprovider "${sanitized[@]}"
    else
        say "sanitizer: compute-sanitizer is not installed, not run"
    fi
}

second() {
    limit=$(( $(date +%s) + 170 * patience ))
    # One process, which loads the model once; ours first, and no float64 beyond its 30 s.
    stage 130 training "${mitune[@]}" bench train --device "$device" "${trained[@]}" \
        --precision bfloat16 --figures "$out/training.jsonl" --only "${trainers[@]}" --json
    [ -z "${GPU_AGAIN:-}" ] || stage 50 again bash -c "$GPU_AGAIN"
}

case "$part" in
    first) first ;;
    second) second ;;
    all) first; second ;;
    *) echo "part $part is not known: choose first, second or all" >&2; exit 2 ;;
esac
pack
say "figures:"
cut -c1-200 "$out"/*.jsonl | grep -v '"setting"' | tail -n 40
say "done, exit $failed"
exit $failed
