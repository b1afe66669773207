#!/usr/bin/env bash
# Everything that needs a GPU, for one that is lent for minutes:
#
#     bench/gpu.sh OUT SECONDS              the stages in their order, the most informative first,
#                                           until the time is over
#     bench/gpu.sh OUT SECONDS STAGE...     only these stages
#     bench/gpu.sh OUT SECONDS --tiny       a rehearsal on a CPU, with a tiny model, nothing compiled
#
# Every stage is a process with a time limit of its own, and none waits for another's success. Every
# figure is a JSON line in OUT/*.jsonl as soon as it is known; the same call again goes on from
# there. After each stage OUT/results.tgz holds what there is. GPU_PATIENCE multiplies every limit, for
# a rehearsal on a slow machine. What is worth keeping belongs into bench/results/DEVICE/ and docs/log.md.
# The stage "cache" leaves what was compiled in OUT/cache.xz.*; a call that finds such files in .whl/
# unpacks them and compiles nothing again on the same kind of GPU.
#
# Needs: a CUDA GPU; torch >= 2.11 with its triton; transformers, peft, accelerate, safetensors,
# pyarrow, pyyaml, tqdm, pillow, numpy, scipy, statsmodels, pytest; diffusers, or its wheel in .whl/;
# _cuda.abi3.so and _cpp.abi3.so, built here or elsewhere ('make cuda'), in kernels/mitune_kernels.
# nvidia-ml-py and compute-sanitizer where there are such.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results} seconds=${2:-600} tiny=
shift 2
if [ "${1:-}" = --tiny ]; then tiny=$1; shift; fi
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
patience=${GPU_PATIENCE:-1}
failed=0
begin=$(date +%s)
limit=$(( begin + (seconds - 10) * patience ))

say() { echo "[$(( $(date +%s) - begin )) s] $*"; }
left() { echo $(( limit - $(date +%s) )); }
pack() {
    # Stages that run beside this one may write meanwhile: what they add is in the next archive.
    tar czf "$out/results.part" -C "$out" --exclude='results.*' --exclude='cache.xz.*' --warning=no-file-changed . ||
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
mitune=("$python" -m mitune.cli)
kernel_tests=(tests/kernels tests/engine/test_on_gpu.py tests/training/test_captured.py
    --ignore=tests/kernels/test_extension.py --ignore=tests/kernels/test_cuda_build.py
    --ignore=tests/kernels/test_triton.py)
if [ "$tiny" = --tiny ]; then
    device=cpu jobs=() levers=(cudnn) stages=(--device cpu --tiny --slots 2 --candidates 3 --steps 5 --micro-batch 1)
    size=(--model tiny-random --prompts 2 --candidates 3 --steps 5 --slots 2 --slow-prompts 1)
    declare -A others=([sdxl]=tiny-random)
    other_size=(--prompts 2 --candidates 2 --steps 3 --slots 2 --slow-prompts 1)
    rungs=(fused half exact "halving late" threshold)
    more_rungs=(slots)
    trained=(--model tiny-random --prompts 4 --batch 2 --micro-batch 1 --iterations 1)
    trainers=(merged authors fair) more_trainers=(peft)
    order=(doctor tests step-5 sdxl main authors fair profile training profile-training levers float32
        rest training-rest cache sanitizer)
    kernel_tests=(tests/kernels/test_noise_op.py -k "reference and golden or words")
    sanitized=(tests/kernels/test_step_op.py -k "cuda and no_rows")
else
    device=cuda
    jobs=(-n 4) levers=(cudnn conv1x1)
    "$python" -c "import xdist" 2> /dev/null || jobs=()
    stages=()
    # Six prompts: with fewer, slots stay empty when pools shrink, and pruning gains nothing.
    size=(--model sd21-base-random --prompts 6 --candidates 50 --steps 20 --slots 50 --slow-prompts 1)
    declare -A others=([sdxl]=sdxl-random [sd35]=sd35-medium-random)
    other_size=(--prompts 2 --candidates 8 --steps 5 --slots 8 --slow-prompts 1)
    # The most informative first: a stage that is stopped has what it began with.
    rungs=(fused threshold "halving late" exact)
    more_rungs=(captured "captured triton" "captured cuda" compiled "halving early" half)
    trained=(--model sd21-base-random --batch 64 --micro-batch 16 --iterations 4 --exact-samples 0)
    trainers=(ours authors)
    more_trainers=(fair merged captured compiled peft)
    order=(doctor tests step-1024 training profile profile-training main authors fair levers
        sdxl sd35 sanitizer cache step-128 training-rest float32 rest step-50)
    sanitized=(tests/kernels -k "cuda and (formulas or loop or score_follows or keyed_noise)")
fi

doctor() {
    nvidia-smi > "$out/nvidia-smi.txt" 2>&1
    stage 60 doctor "${mitune[@]}" doctor && cat "$out/doctor.txt"
}

# The GPU's tests and, side by side with them, whatever compiles.
tests() {
    local pids=() name most=$(( 200 * patience ))
    timeout $most "$python" -m pytest -v -p no:cacheprovider "${jobs[@]}" "${kernel_tests[@]}" \
        > "$out/tests.txt" 2>&1 &
    pids+=("$!:tests")
    for name in ours fair training step; do
        timeout $most "$python" bench/stages.py "compile-$name" --out "$out" "${stages[@]}" \
            > "$out/compile-$name.txt" 2> "$out/compile-$name.err" &
        pids+=("$!:compile-$name")
    done
    # What a lever compiles must not be found by others. Whoever waits for a lever is the last.
    for name in "${levers[@]}"; do
        TORCHINDUCTOR_CACHE_DIR="$XDG_CACHE_HOME/lever-$name" TORCHINDUCTOR_COMPILE_THREADS=4 \
            nice timeout "$(left)" "$python" bench/stages.py "lever-$name" --out "$out" \
            "${stages[@]}" > "$out/lever-$name.txt" 2> "$out/lever-$name.err" &
    done
    local outcome
    for name in "${pids[@]}"; do
        wait "${name%%:*}" && outcome="exit 0" || { outcome=failed; failed=1; }
        name=${name#*:}
        say "$name: $outcome; $(cat "$out/$name.txt" "$out/$name.err" 2> /dev/null | tail -n 1 | cut -c1-160)"
    done
    # Run verbosely, so that even a run which the limit stops names what failed.
    grep "FAILED\|ERROR\|^E  " "$out/tests.txt" | cut -c1-200 | sort | uniq -c | sort -rn | head -n 25
    pack
}

# The fused step against a copy: says which of its implementations auto may take.
step() {
    stage 40 "step-$1" "${mitune[@]}" bench step --device "$device" --rows "$1" --no-compiled \
        --figures "$out/step-$1.jsonl" && cat "$out/step-$1.txt"
}

# ladder SECONDS NAME RUNG...
ladder() {
    local most=$1 name=$2
    shift 2
    stage "$most" "ladder-$name" "${mitune[@]}" bench generate --device "$device" "${size[@]}" \
        --precision bfloat16 --figures "$out/ladder.jsonl" --only "$@" &&
        sed '/^repeated/,$d' "$out/ladder-$name.txt"
}

# other MODEL: the most informative rungs, of another denoiser at its own size.
other() {
    stage 150 "ladder-$1" "${mitune[@]}" bench generate --device "$device" --model "${others[$1]}" \
        "${other_size[@]}" --precision bfloat16 --figures "$out/ladder-$1.jsonl" \
        --only fused fair && sed '/^repeated/,$d' "$out/ladder-$1.txt"
}

# training SECONDS NAME RUNG...: one process, which loads the model once.
training() {
    local most=$1 name=$2
    shift 2
    stage "$most" "training-$name" "${mitune[@]}" bench train --device "$device" "${trained[@]}" \
        --precision bfloat16 --figures "$out/training.jsonl" --only "$@" &&
        cat "$out/training-$name.txt"
}

# Each lever's process has compiled beside the tests, and measures once it may.
levers() {
    local name end
    for name in "${levers[@]}"; do
        touch "$out/go-$name"
        end=$(( $(date +%s) + 20 * patience ))
        until grep -q tick_seconds "$out/lever-$name.txt" || (( $(date +%s) > end )) ||
            ! pgrep -f "stages.py lever-$name" > /dev/null; do sleep 0.5; done
        say "lever $name: $(tail -n 1 "$out/lever-$name.txt" "$out/lever-$name.err" | cut -c1-160)"
    done
    pkill -f 'stages.py lever-'
    pack
}

# In a block of torch's allocator, which holds many tensors, an access past one's end does not show;
# and of all kernels ours alone are looked at.
sanitizer() {
    if ! command -v compute-sanitizer > /dev/null; then
        say "sanitizer: compute-sanitizer is not installed, not run"
        return
    fi
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage 60 sanitizer compute-sanitizer --tool memcheck \
        --kernel-name kns=mitune --error-exitcode 9 "$python" -m pytest -q -x \
        -p no:cacheprovider "${sanitized[@]}"
}

# In parts that can be copied apart.
cache() {
    tar cf - -C "$XDG_CACHE_HOME" mitune | xz -T0 -2 | split -b 15000000 -d - "$out/cache.xz."
    say "cache: $(du -ch "$out"/cache.xz.* | tail -n 1)"
}

run() {
    case "$1" in
        step-*) step "${1#step-}" ;;
        main) ladder 120 main "${rungs[@]}" ;;
        rest) ladder 200 rest "${more_rungs[@]}" ;;
        authors | fair) ladder 75 "$1" "$1" ;;
        sdxl | sd35) other "$1" ;;
        float32) ladder 200 float32 "exact float32" ;;
        training) training 110 main "${trainers[@]}" ;;
        training-rest) training 90 rest "${more_trainers[@]}" ;;
        profile | profile-training)
            stage 60 "$1" "$python" bench/stages.py "$1" --out "$out" "${stages[@]}" ;;
        again) stage 120 again bash -c "$GPU_AGAIN" ;;
        doctor | tests | levers | sanitizer | cache) "$1" ;;
        *) echo "stage $1 is not known" >&2; exit 2 ;;
    esac
}

if compgen -G ".whl/cache.xz.*" > /dev/null && [ ! -d "$XDG_CACHE_HOME/mitune" ]; then
    mkdir -p "$XDG_CACHE_HOME"
    cat .whl/cache.xz.* | xz -dc | tar xf - -C "$XDG_CACHE_HOME" && say "cache: unpacked"
fi
for each in "${@:-${order[@]}}"; do run "$each"; done
pack
say "done, exit $failed"
exit $failed
