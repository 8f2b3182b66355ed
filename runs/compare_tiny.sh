#!/usr/bin/env bash
# SharedLLM against other systems at the smallest scale: trains all of them from the bundled base on the same samples
# (three seeds), evaluates them on the test books, code and proofs (loss) and books (recall), and makes the tables.
# About three hours on two cores; an interrupted run resumes.
#
#   runs/compare_tiny.sh CORPUS OUT     # CORPUS: folder with {books,code,proofs}-{train,validation,test}-*.jsonl.zst
set -euo pipefail
export CORPUS=${1:?"usage: runs/compare_tiny.sh CORPUS OUT"}
out=${2:?"name the folder of the results"}
trained=build/compare/tiny
seeds=${SEEDS:-0 1 2}
# The scored places have LONGEST tokens before them, so lengths may be measured one after the other.
lengths=${LENGTHS:-0,1W,4W,16W,64W}
longest=${LONGEST:-64W}
run() { python -m sharedllm "$@"; }

# Make the training tokens first, because the encoder is trained on them.
run train recipes/tiny-extend.yaml --max-steps 1 > /dev/null
if [ ! -d build/compare/encoder ]; then
  python -m sharedllm.systems.cepe.pretrain --tokens build/tokens-tiny/books --tokens build/tokens-tiny/code \
    --tokens build/tokens-tiny/proofs --output build/compare/encoder --steps 300
fi
run ablate recipes/compare/tiny.yaml

for domain in books code proofs; do
  if [ ! -d "build/tokens-tiny/$domain-test" ]; then
    run tokenize "$CORPUS/$domain-test-*.jsonl.zst" --tokenizer base -o "build/tokens-tiny/$domain-test"
  fi
done
for seed in $seeds; do
  # Untrained systems are measured once.
  untrained=; [ "$seed" = "${seeds%% *}" ] && untrained=,window,streaming
  for domain in books code proofs; do
    data="$domain=build/tokens-tiny/$domain-test"
    trained_systems=(--trained "$trained/cepe/seed-$seed/model" --trained "$trained/beacon/seed-$seed/model" --trained "$trained/full/seed-$seed/model")
    ours=(--model "$trained/ours/seed-$seed/model" --cases 1 -o "$out/cells/$domain-$seed")
    run eval loss --data "$data" "${ours[@]}" "${trained_systems[@]}" --lengths "$lengths" --longest "$longest" \
      --system "sharedllm,empty,cepe,beacon$untrained"
    # Full attention is quadratic, and breaks down beyond its YaRN factor: measure it once there.
    tuned=0,1W,4W; [ -n "$untrained" ] && tuned=$tuned,16W
    run eval loss --data "$data" "${ours[@]}" "${trained_systems[@]}" --lengths "$tuned" --longest "$longest" --system tuned
    # Whether the text itself helps: another document's text and shuffled text before the window.
    run eval loss-other loss-shuffled --data "$data" --model "$trained/ours/seed-$seed/model" "${trained_systems[@]}" --cases 1 --lengths 4W \
      --longest "$longest" --system sharedllm,cepe,beacon,tuned -o "$out/control-cells/$domain-$seed"
    run eval loss --data "$data" --model "$trained/paper/seed-$seed/model" --cases 1 --lengths "$lengths" --longest "$longest" \
      --system sharedllm -o "$out/paper-cells/$domain-$seed"
  done
done
# Half a million tokens of context, in the five books that have them: ours with one training.
run eval loss --data books=build/tokens-tiny/books-test --model "$trained/ours/seed-0/model" --cases 1 \
  --lengths 1W,16W,128W,1024W --longest 1024W --system sharedllm,empty,window -o "$out/far-cells"
run report "$out/far-cells" -o "$out/far"
# Recall inside the window, at its length and beyond it: copies, single facts, one of several, and facts that lead to each other.
for seed in $seeds; do
  untrained=; [ "$seed" = "${seeds%% *}" ] && untrained=,window,streaming,bm25
  run eval copy passkey needle keys-4 hops-1 --data books=build/tokens-tiny/books-test \
    --model "$trained/ours/seed-$seed/model" --trained "$trained/cepe/seed-$seed/model" \
    --trained "$trained/beacon/seed-$seed/model" --trained "$trained/full/seed-$seed/model" \
    --lengths 0.5W,1W,4W --cases "${CASES:-50}" --system "sharedllm,sharedllm@1/1/1,budget:focus@512,cepe,beacon,tuned$untrained" \
    -o "$out/recall-cells/$seed"
done
run report "$out"/recall-cells/* -o "$out/recall"
run report "$out"/control-cells/* -o "$out/control"
run report "$out"/paper-cells/* -o "$out/paper"

for domain in books code proofs; do
  run report "$out"/cells/"$domain"-* -o "$out/$domain"
done
