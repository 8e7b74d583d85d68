#!/usr/bin/env bash
# What waits for a GPU that is lent for some minutes. Each step is bounded in time and leaves its results in $OUT.
#
#   OUT=results bash benchmarks/on_a_gpu.sh speed                            # Stable Diffusion 1.5 and XL, random weights
#   OUT=results bash benchmarks/on_a_gpu.sh levers MEASURE LEVER...           # what single options of XLA bring
#   OUT=results bash benchmarks/on_a_gpu.sh pretraining [SECONDS [OPTIONS OF PRETRAIN]]
#   OUT=results bash benchmarks/on_a_gpu.sh experiments SECONDS EXPERIMENT...
#
# Pretraining takes 500 seconds if not told otherwise: parts take fewer steps if need be. The check takes up to a minute
# more. It leaves the log, the table of `dreamstyler check`, and in pieces of 15 MiB the model, or as long as there is
# none, the weights of the finished parts (put together: cat weights.tar.* | tar x). What lies in carried/ is taken over:
# weights of parts, the tokenizer, captions.
#
# Experiments share the GPU among PROCESSES (4), since one compiles while others compute; each takes the next of the
# experiments, in their order. The first runs alone, so that the others find its styles and programs: begin with
# starting_words. Programs are not tuned, which takes longer than they run. They leave their styles and scores in
# experiments.tar.gz.*; what lies in carried/ is not measured again. A last call on any machine, `dreamstyler experiments
# --output FOLDER`, prints the tables.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-out/gpu}
mkdir -p "$OUT"
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | tee "$OUT/device.txt"

speed() {
    benchmark() { # name, seconds, options
        timeout "$2" python3 -m dreamstyler_jax benchmark --dtype bfloat16 --output "$OUT/$1.jsonl" "${@:3}" 2>&1 | tee "$OUT/$1.txt"
    }
    benchmark latency_sd15 120 --model sd15 --steps 50 --repeats 5 --measure latency
    benchmark painting_sdxl 200 --model sdxl --resolution 1024 --batch 1 --steps 30 --repeats 3 --measure cfg
    benchmark training_sdxl 240 --model sdxl --resolution 1024 --batch 1 --repeats 3 --measure train
}

# One of XLA's options at a time, beside none: launches recorded into CUDA graphs together with their loops, products by
# cuBLAS alone, and all tilings of Triton's products tried.
levers() { # measure, names of levers
    local measure=$1 lever
    shift
    declare -A flags=(
        [none]=""
        [graphs]="--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,+DYNAMIC_SLICE_FUSION"
        [cublas]="--xla_gpu_enable_triton_gemm=false"
        [tilings]="--xla_gpu_exhaustive_tiling_search=true"
    )
    for lever in "$@"; do
        XLA_FLAGS="${flags[$lever]}" timeout 150 python3 -m dreamstyler_jax benchmark --model sd15 --dtype bfloat16 \
            --measure "$measure" --steps 50 --repeats 5 --output "$OUT/$measure-$lever.jsonl" 2>&1 | tee "$OUT/$measure-$lever.txt"
    done
}

pretraining() {
    local seconds=${1:-500} work=${WORK:-pretraining} finished
    shift || true
    mkdir -p "$work"
    [ -d carried ] && cp -ru carried/. "$work"
    timeout $((seconds + 25)) python3 -m dreamstyler_jax pretrain --config pretrain/gpu --output "$work" \
        --minutes "$(awk "BEGIN { print $seconds / 60 }")" "$@" 2>&1 | tee "$OUT/pretrain.log"
    finished=$(cd "$work" && { ls -d model || ls -d tokenizer */weights; } 2> /dev/null)
    tar c -C "$work" $finished | split -b 15M - "$OUT/weights.tar."
    if [ -d "$work/model" ]; then
        timeout 60 python3 -m dreamstyler_jax check --model "$work/model" --sheet "$OUT/check.png" 2>&1 | tee "$OUT/check.txt"
    fi
}

experiments() { # seconds, names of experiments
    local seconds=$1
    shift
    export WORK=${WORK:-experiments} PROCESSES=${PROCESSES:-4} XLA_FLAGS="--xla_gpu_autotune_level=0 ${XLA_FLAGS:-}"
    export XLA_PYTHON_CLIENT_MEM_FRACTION=$(awk "BEGIN { print 0.9 / $PROCESSES }")
    mkdir -p "$WORK/logs"
    [ -d carried ] && cp -ru carried/. "$WORK"
    one() { python3 -m dreamstyler_jax experiments --output "$WORK" --together 32 --experiments "$1" > "$WORK/logs/$1.txt" 2>&1; }
    in_turn() { one "$1"; shift; printf '%s\n' "$@" | xargs -P "$PROCESSES" -I NAME bash -c "one NAME"; }
    export -f one in_turn
    timeout "$seconds" bash -c 'in_turn "$@"' in_turn "$@"
    tail -n 1 "$WORK"/logs/*.txt
    tar cz -C "$WORK" . | split -b 15M - "$OUT/experiments.tar.gz."
}

"$@"
ls -l "$OUT"
