#!/usr/bin/env bash
# The tables of the bundled model: loss by context length on books, code and proofs with its controls, and needles.
#
#   runs/evaluate_tiny.sh TOKENS OUT [MODEL]     # TOKENS: the folder that runs/train_tiny.sh tokenised into
set -euo pipefail
tokens=${1:?"usage: runs/evaluate_tiny.sh TOKENS OUT [MODEL]"}
out=${2:?"name the folder of the results"}
model=${3:-tiny}
data=(--data "books=$tokens/books-validation" --data "code=$tokens/code-validation" --data "proofs=$tokens/proofs-validation")
eval() { python -m sharedllm eval "$@" --model "$model"; }

eval loss loss-other --data "books=$tokens/books-validation" --method sharedllm,empty,window \
  --lengths 0,0.5W,1W,2W,4W,8W,16W,32W,64W,128W --cases 4 -o "$out/books"
eval loss loss-other "${data[@]:2}" --method sharedllm,empty,window --lengths 0,0.5W,1W,2W,4W,8W,16W,32W --cases 4 -o "$out/rest"
eval passkey --data "books=$tokens/books-validation" --method budget:attention@2048,budget:bm25@2048,sharedllm@1/1,sharedllm,window,bm25 \
  --lengths 0.5W,1W,4W,16W,64W --cases 50 -o "$out/needles"
