#!/usr/bin/env bash
# A real checkpoint on one GPU, in commands of at most ten minutes: run each stage again until it says that it is done.
#
#   runs/gpu_real.sh model BASE DATA OUT      # BASE: a folder or a .gguf file; writes it as safetensors, and extends it
#   runs/gpu_real.sh cost BASE DATA OUT       # alone on the GPU: reading and a question beside full attention, by length
#   runs/gpu_real.sh answers BASE DATA OUT    # the sets of questions, JOBS of them at once; seconds mean nothing here
#   runs/gpu_real.sh selection BASE DATA OUT  # how often the evidence is among the best pieces
#   runs/gpu_real.sh pack BASE DATA OUT       # the answers and reports in one file under 16 MB, for copying back
#
# A .gguf file that travels in pieces is joined first: `cat base.gguf.* > base.gguf`. EMBEDDINGS=DIR adds a sentence
# encoder as a rival. SMALL=1 takes a few questions and short texts, for a CPU. ABOUT="words on the model".
set -euo pipefail
stage=${1:?"usage: runs/gpu_real.sh model|cost|answers|selection|pack BASE DATA OUT"}
base=${2:?"name the base"} data=${3:?"name the folder with the question sets"} out=${4:?"name the folder of the results"}
limit=${LIMIT:-540} jobs=${JOBS:-6} about=${ABOUT:-$base}
mkdir -p "$out"
depths=${DEPTHS:-8 16 24} shape=qwen2.5-0.5b
if [[ -n "${SMALL:-}" ]]; then depths=${DEPTHS:-2} shape=tiny; fi
embeddings=(--embeddings "${EMBEDDINGS:-}") minilm=
if [[ -n "${EMBEDDINGS:-}" ]]; then minilm=minilm-text,; fi

until_done() { # COMMAND …
  local code=0
  timeout "$limit" "$@" || code=$?
  # 124: the time is up; the next call resumes.
  if [[ "$code" = 124 ]]; then echo "not done yet: run it again"; exit 0; fi
  if [[ "$code" != 0 ]]; then exit "$code"; fi
  echo "$stage is done"
}

asked() { # every cell as a line: FOLDER MODEL-DEPTH SET LENGTH QUESTIONS BUDGETS SYSTEMS, the most important ones first
  local ours=sharedllm,same-pieces-text all
  all="$ours,bm25-text,${minilm}oracle-text"
  if [[ -n "${SMALL:-}" ]]; then
    echo "odd first keys-4 1K 2 512 $all,closed,wrong"
    for depth in $depths; do echo "depth/M-$depth $depth keys-4 1K 2 512 sharedllm:bm25"; done
    return
  fi
  cat <<LINES
odd first nq 32K 200 256,512 $all,closed,wrong
odd first keys-4 32K 200 256,512 $all,closed,wrong
odd first nq 128K 200 512 $all
odd first keys-4 128K 200 512 $all
odd first fairytaleqa 32K 200 256,512 $all,closed,wrong
odd first hotpotqa 32K 55 256,512 $all,closed,wrong
odd first keys-4 1M 100 512 $all
odd first nq 1M 100 512 $all
depth/M-first first nq 32K 200 512 sharedllm:bm25,same-pieces-text:sharedllm:bm25
depth/M-first first keys-4 32K 200 512 sharedllm:bm25,same-pieces-text:sharedllm:bm25
$(for depth in $depths; do
    echo "depth/M-$depth $depth nq 32K 200 512 sharedllm:bm25"
    echo "depth/M-$depth $depth keys-4 32K 200 512 sharedllm:bm25"
  done)
odd first narrativeqa 0 200 512 $ours,bm25-text,${minilm}closed,wrong
odd first nq 8K 200 512 $all,full
odd first keys-4 8K 200 512 $all,full
odd first nq 31K 200 512 $ours,full
odd first keys-4 31K 200 512 $ours,full
odd first fairytaleqa 128K 200 512 $all
odd first hotpotqa 128K 55 512 $all
odd first keys-16 32K 200 512 $all
odd first keys-64 32K 200 512 $all
odd first values 32K 200 512 $all
odd first variables 32K 200 512 $all
odd first kv75 8K 50 512 $ours,bm25-text
odd first kv140 8K 50 512 $ours,bm25-text
odd first clinc 8K 60 512 $ours,bm25-text
LINES
}

case $stage in
  model)
    if [[ ! -f "$out/base/config.json" ]]; then
      python - "$base" "$out/base" <<'PY'
import sys

from sharedllm.utils.checkpoints import load_model, load_tokenizer

for load in (load_model, load_tokenizer):
    load(sys.argv[1], **({"dtype": "auto"} if load is load_model else {})).save_pretrained(sys.argv[2])
PY
    fi
    [[ -f "$out/first/config.json" ]] || python -m sharedllm extend "$out/base" -o "$out/first"
    for depth in $depths; do
      [[ -f "$out/$depth/config.json" ]] || python -m sharedllm extend "$out/base" -o "$out/$depth" --lower-layers "$depth"
    done
    echo "$stage is done"
    ;;
  cost)
    options=(--shape "$shape" --system "${SYSTEMS:-deep,full,streaming}" --lengths "${LENGTHS:-8K,32K,128K,512K,1M}" --running 64
             --new-tokens 16 --repeats "${REPEATS:-3}" --limit-seconds "${SECONDS_A_RUN:-40}" --dtype bf16)
    if [[ -n "${SMALL:-}" ]]; then options+=(--lengths 1K,2K --repeats 1); fi
    export PYTORCH_ALLOC_CONF=expandable_segments:True
    until_done python -m sharedllm bench "${options[@]}" -o "$out/bench-$shape"
    ;;
  answers)
    ask() { # the fields of a line
      local depth=$2
      if [[ "$depth" = first ]]; then depth=$(grep -o '"lower_layers": [0-9]*' "$out/first/config.json" | grep -o '[0-9]*$'); fi
      local place=$out/${1/M-first/M-$depth} log=$out/logs/$1-$3-$4.log
      mkdir -p "$(dirname "$log")"
      python -m sharedllm qa "$out/$2" --base "$out/base" --data "$data" --set "$3" --length "$4" -n "$5" --per-text 50 \
        --budgets "$6" --system "$7" --half "${HALF:-odd}" --about "$about; M = $depth" "${embeddings[@]}" -o "$place" \
        >>"$log" 2>&1 || { tail -n 1 "$log"; exit 1; }
      echo "$*: done"
    }
    export -f ask
    export out data about
    export EMBEDDING=${EMBEDDINGS:-}
    # Small products don't fill a GPU, so several processes share it; each one's CPU work takes one thread.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
    until_done xargs -P "$jobs" -d '\n' -I LINE bash -c 'set -euo pipefail; embeddings=(--embeddings "$EMBEDDING"); ask LINE' < <(asked)
    ;;
  selection)
    rankings=bm25,memory:bm25,memory:attention,memory:hybrid
    if [[ -n "${EMBEDDINGS:-}" ]]; then rankings+=,minilm,bm25+minilm; fi
    sets=nq,hotpotqa,fairytaleqa,keys-64 lengths="32K 128K" count=200
    if [[ -n "${SMALL:-}" ]]; then sets=keys-4 lengths=1K count=4; fi
    for length in $lengths; do
      python -m sharedllm selection "$out/first" --data "$data" --set "$sets" --length "$length" -n "$count" \
        --rankings "$rankings" --half "${HALF:-odd}" "${embeddings[@]}" -o "$out/selection"
    done
    echo "$stage is done"
    ;;
  pack)
    (cd "$out" && tar -cJf results.tar.xz --exclude='*.safetensors' --exclude='tokenizer*' --exclude=results.tar.xz ./*)
    ls -l "$out/results.tar.xz"
    ;;
  *)
    echo "unknown stage $stage" >&2
    exit 2
    ;;
esac
