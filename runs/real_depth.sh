#!/usr/bin/env bash
# How deep to read: the same questions, and the same pieces chosen by words, for several depths M, beside the same pieces as
# text in the window (M = 0) and everything read through all layers once (M = N). Run it again to continue where it stopped.
#
#   runs/real_depth.sh BASE DATA OUT             # BASE: folder, hub id or .gguf file; DATA: the folder of the question sets
#   SMALL=1 runs/real_depth.sh BASE DATA OUT     # a few questions for two depths
#
# DEPTHS="3 8 16 24" names the depths. ABOUT="words on the model" appears beside the figures.
set -euo pipefail
base=${1:?"usage: runs/real_depth.sh BASE DATA OUT"}
data=${2:?"name the folder with the question sets"}
out=${3:?"name the folder of the results"}
depths=${DEPTHS:-3 8 16 24} count=${QUESTIONS:-60} sets=${SETS:-nq,keys-4} length=${LENGTH:-8K}
if [[ -n "${SMALL:-}" ]]; then
  depths=${DEPTHS:-1 2} count=3 sets=${SETS:-keys-4} length=${LENGTH:-1K}
fi
systems=sharedllm:bm25,same-pieces-text:sharedllm:bm25
for depth in $depths; do
  model=$out/model-$depth
  [[ -f "$model/config.json" ]] || python -m sharedllm extend "$base" -o "$model" --lower-layers "$depth"
  python -m sharedllm qa "$model" --base "$base" --data "$data" --set "$sets" --length "$length" -n "$count" --per-text 20 \
    --system "$systems" --budgets "${BUDGET:-512}" --half "${HALF:-odd}" --about "${ABOUT:-$base}; M = $depth" -o "$out/M-$depth"
  # The pieces are the same at every depth, and so is the text in the window.
  systems=sharedllm:bm25
done
