#!/usr/bin/env bash
# The tables and figures of the bundled model: loss by context length on books, code and proofs, with controls, and needles.
#
#   runs/evaluate_tiny.sh TOKENS OUT [MODEL]     # TOKENS: the token folder of runs/train_tiny.sh
# Three seeds (different places, keys and answers) take an hour on one core; tables and figures combine them. For other
# seeds: SEEDS="3 4".
set -euo pipefail
tokens=${1:?"usage: runs/evaluate_tiny.sh TOKENS OUT [MODEL]"}
out=${2:?"name the folder of the results"}
model=${3:-tiny}
data=(--data "books=$tokens/books-validation" --data "code=$tokens/code-validation" --data "proofs=$tokens/proofs-validation")

for seed in ${SEEDS:-0 1 2}; do
  eval() { python -m sharedllm eval "$@" --model "$model" --seed "$seed"; }
  eval loss loss-other "${data[@]:0:2}" --system sharedllm,empty,window,bm25-same \
    --lengths 0,0.5W,1W,2W,4W,8W,16W,32W,64W,128W --cases 2 -o "$out/books/seed-$seed"
  eval loss loss-other "${data[@]:2}" --system sharedllm,empty,window,bm25-same --lengths 0,0.5W,1W,2W,4W,8W,16W,32W --cases 2 \
    -o "$out/rest/seed-$seed"
  eval passkey needle "${data[@]:0:2}" --system budget:focus@512,budget:attention@512,sharedllm,window,bm25,bm25-same \
    --lengths 0.5W,1W,4W,16W,64W --cases 25 -o "$out/needles/seed-$seed"
done
for part in books rest needles; do
  python -m sharedllm report "$out/$part"/seed-* -o "$out/$part"
done
