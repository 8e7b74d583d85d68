#!/usr/bin/env bash
# The pretraining of the embedded model on a GPU that is lent for some minutes, and what the model understands.
#
#   OUT=results bash benchmarks/on_a_gpu.sh [SECONDS [OPTIONS OF PRETRAIN]]
#
# SECONDS are those of the pretraining, 500 if not given: parts take fewer steps if need be. The check takes up to a minute
# more. Leaves in $OUT the log, the table of `dreamstyler check`, and in pieces of 15 MiB the model, or as long as there is
# none, the weights of the finished parts (put together: cat weights.tar.* | tar x). What lies in carried/ is taken over:
# weights of parts, the tokenizer, captions.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-out/gpu}
TIME=${1:-500}
shift || true
WORK=${WORK:-pretraining}
mkdir -p "$OUT" "$WORK"
[ -d carried ] && cp -r --update=none carried/. "$WORK"
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | tee "$OUT/device.txt"
minutes=$(awk "BEGIN { print $TIME / 60 }")
timeout $((TIME + 25)) python3 -m dreamstyler_jax pretrain --config pretrain/gpu --output "$WORK" --minutes "$minutes" "$@" 2>&1 |
    tee "$OUT/pretrain.log"
finished=$(cd "$WORK" && { ls -d model || ls -d tokenizer */weights; } 2> /dev/null)
tar c -C "$WORK" $finished | split -b 15M - "$OUT/weights.tar."
if [ -d "$WORK/model" ]; then
    timeout 60 python3 -m dreamstyler_jax check --model "$WORK/model" --sheet "$OUT/check.png" 2>&1 | tee "$OUT/check.txt"
fi
ls -l "$OUT"
