#!/usr/bin/env bash
# Human questions and generated facts for a real checkpoint, with no text, the wrong text, the whole text, and the best
# pieces by words and by embeddings as text in its window. Run it again to resume.
#
#   runs/real_qa.sh MODEL DATA OUT             # MODEL: a base, or a SharedLLM with BASE=its base; DATA: the folder of the sets
#   SMALL=1 runs/real_qa.sh MODEL DATA OUT     # a few questions per cell, minutes on two cores
#
# EMBEDDINGS=DIR adds all-MiniLM-L6-v2 (or another encoder). ABOUT="description of the model" is shown next to the figures.
set -euo pipefail
model=${1:?"usage: runs/real_qa.sh MODEL DATA OUT"}
data=${2:?"name the folder with the question sets"}
out=${3:?"name the folder of the results"}
systems=closed,wrong,oracle-text,bm25-text,bm25-text-rank
options=()
if [[ -n "${EMBEDDINGS:-}" ]]; then
  systems+=,minilm-text
  options+=(--embeddings "$EMBEDDINGS")
fi
if [[ -n "${BASE:-}" ]]; then
  systems+=,sharedllm,same-pieces-text
  options+=(--base "$BASE")
fi
if [[ -n "${SMALL:-}" ]]; then
  count=6 few=4 lengths=8K budgets=512 sets=nq,keys-4
else
  count=200 few=60 lengths="8K 32K 128K" budgets=256,512,1024 sets=nq,hotpotqa,fairytaleqa,keys-4,keys-16,keys-64,values,variables
fi
count=${QUESTIONS:-$count}

ask() { # SETS LENGTH QUESTIONS SYSTEMS
  python -m sharedllm qa "$model" --data "$data" --set "$1" --length "$2" -n "$3" --system "$4" --budgets "$budgets" \
    --half "${HALF:-odd}" --about "${ABOUT:-}" ${options[@]+"${options[@]}"} -o "$out"
}

for length in $lengths; do
  ask "$sets" "$length" "$count" "$systems"
done
# The whole text, as far as a window of 32K allows: reading takes minutes per text, so use few texts with many questions.
ask nq,keys-4 8K "$few" full
if [[ -z "${SMALL:-}" ]]; then
  ask nq,keys-4 31K "$few" "full,$systems"
  ask kv75,kv140 8K 50 "$systems"
  ask clinc 8K "$few" "$systems"
  ask codelong 32K "$few" "$systems"
  ask narrativeqa 0 "$count" "${systems/oracle-text,/}"
  ask qmsum,squality 0 "$few" "${systems/oracle-text,/}"
fi
