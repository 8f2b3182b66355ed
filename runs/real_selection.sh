#!/usr/bin/env bash
# How often the evidence is among the best 1, 4, 8 and 16 pieces of a text: by words, by embeddings, by a memory's scores, and
# by sums of reciprocal ranks. No answers are written, so it takes minutes.
#
#   runs/real_selection.sh MODEL DATA OUT          # MODEL: its tokens are counted; a SharedLLM also ranks, with
# SCORES="focus …"
#   SMALL=1 runs/real_selection.sh MODEL DATA OUT
#
# EMBEDDINGS=DIR adds all-MiniLM-L6-v2 (or another encoder).
set -euo pipefail
model=${1:?"usage: runs/real_selection.sh MODEL DATA OUT"}
data=${2:?"name the folder with the question sets"}
out=${3:?"name the folder of the results"}
rankings=bm25
options=()
if [[ -n "${EMBEDDINGS:-}" ]]; then
  rankings+=,minilm,bm25+minilm
  options+=(--embeddings "$EMBEDDINGS")
fi
for score in ${SCORES:-}; do
  rankings+=",memory:$score,memory:$score~mean,memory:$score+bm25"
done
lengths="8K 32K 128K"
count=${QUESTIONS:-200}
if [[ -n "${SMALL:-}" ]]; then
  lengths=8K count=20
fi
for length in $lengths; do
  python -m sharedllm selection "$model" --data "$data" --set nq,hotpotqa,fairytaleqa,keys-64 --length "$length" -n "$count" \
    --rankings "$rankings" --half "${HALF:-odd}" ${options[@]+"${options[@]}"} -o "$out"
done
