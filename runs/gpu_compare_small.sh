#!/usr/bin/env bash
# SharedLLM against other systems with the `small` base on one GPU, in commands of at most ten minutes: run a stage
# again and again until it says that it is done, then the next one. Run it after `runs/gpu_train_small.sh base`, with
# the same OUT.
#
#   runs/gpu_compare_small.sh encoder CORPUS OUT    # CEPE's encoder alone
#   runs/gpu_compare_small.sh train CORPUS OUT      # five methods, three seeds
#   runs/gpu_compare_small.sh evaluate CORPUS OUT   # loss and recall on the test texts, and one table per domain
#
# SEEDS and LENGTHS select fewer. SMOKE=1 makes minute-long runs on a CPU, after a SMOKE=1 base.
set -euo pipefail
stage=${1:?"usage: runs/gpu_compare_small.sh encoder|train|evaluate CORPUS OUT"}
export CORPUS=${2:?"name the folder of the corpus"}
export OUT=${3:?"name the folder of the runs"}
deadline=$((SECONDS + ${LIMIT:-540}))
seeds=${SEEDS:-0 1 2}
lengths=${LENGTHS:-0,1W,2W,4W,16W,64W,128W}
here=$(dirname "$0")
encoder=(--steps 2000 --batch 64)
smoke=()
cases=50
if [ -n "${SMOKE:-}" ]; then
  encoder=(--steps 3 --batch 2)
  seeds=0 lengths=0,1W,2W cases=2
  for change in steps=2 batch_tokens=4096 micro_tokens=4096 validation.rows=2 validation.task_rows=2 "validation.windows=[0,1]"; do
    smoke+=(--set "$change")
  done
fi
# Run for the remaining time; 124: the time is up, the next call resumes.
run() {
  local code=0
  timeout "$((deadline > SECONDS ? deadline - SECONDS : 1))" python -m sharedllm "$@" || code=$?
  if [ "$code" = 124 ]; then echo "not done yet: run it again"; exit 0; fi
  if [ "$code" != 0 ]; then exit "$code"; fi
}
trained=$OUT/compare-small
model() { echo "$trained/$1/seed-$2/model"; }

case $stage in
  encoder)
    python -m sharedllm.systems.cepe.pretrain --base "$OUT/small-base/model" --output "$OUT/encoder-small" "${encoder[@]}" \
      --tokens "$OUT/tokens-small/books" --tokens "$OUT/tokens-small/code" --tokens "$OUT/tokens-small/proofs"
    ;;
  train)
    run ablate "$here/../recipes/compare/small.yaml" "${smoke[@]}"
    ;;
  evaluate)
    base=$OUT/small-base/model
    for domain in books code proofs; do
      run tokenize "$CORPUS/$domain-test-*.jsonl.zst" --tokenizer "$base" -o "$OUT/tokens-small/$domain-test"
    done
    for seed in $seeds; do
      # Untrained systems are measured once.
      untrained=; [ "$seed" = "${seeds%% *}" ] && untrained=,window,streaming,bm25
      trained_systems=()
      for system in cepe beacon full; do trained_systems+=(--trained "$(model "$system" "$seed")"); done
      for domain in books code proofs; do
        data=$domain=$OUT/tokens-small/$domain-test
        run eval loss --data "$data" --model "$(model ours "$seed")" --base "$base" "${trained_systems[@]}" --lengths "$lengths" --cases 2 \
          --system "sharedllm,empty,cepe,beacon,tuned$untrained" -o "$OUT/results-small/cells/$domain-$seed"
        run eval loss --data "$data" --model "$(model paper "$seed")" --base "$base" --lengths "$lengths" --cases 2 \
          --system sharedllm -o "$OUT/results-small/paper-cells/$domain-$seed"
      done
      run eval passkey keys moves --data "books=$OUT/tokens-small/books-test" --model "$(model ours "$seed")" --base "$base" \
        "${trained_systems[@]}" --lengths "${lengths#0,}" --cases "$cases" -o "$OUT/results-small/cells/recall-$seed" \
        --system "sharedllm,budget:attention@1024,cepe,beacon,tuned$untrained"
    done
    for part in books code proofs recall; do
      run report "$OUT"/results-small/cells/"$part"-* -o "$OUT/results-small/$part"
    done
    for domain in books code proofs; do
      run report "$OUT"/results-small/paper-cells/"$domain"-* -o "$OUT/results-small/$domain-paper"
    done
    ;;
  *)
    echo "unknown stage $stage" >&2
    exit 2
    ;;
esac
echo "$stage: done"
