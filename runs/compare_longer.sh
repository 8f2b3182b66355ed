#!/usr/bin/env bash
# What more training does for the rivals of runs/compare_tiny.sh: 4 million tokens for Beacon instead of half a million, 10 million for
# CEPE, its encoder with 12 million before, and 16 million for the paper's settings. Losses on the validation texts on the way, and
# whether the text itself is used in the end. About six hours on one core; an interrupted run resumes.
#
#   runs/compare_longer.sh CORPUS OUT     # CORPUS: folder with {books,code,proofs}-{train,validation}-*.jsonl.zst
#
# SYSTEMS=cepe-3e-4 trains CEPE at a rate below its lowest, SYSTEMS="beacon-1e-3 beacon-3e-4" Beacon.
set -euo pipefail
export CORPUS=${1:?"usage: runs/compare_longer.sh CORPUS OUT"}
out=${2:?"name the folder of the results"}
systems=${SYSTEMS:-cepe beacon paper}
encoder=build/compare/encoder-long
run() { python -m sharedllm "$@"; }

# Make the training tokens first, because the encoder is trained on them.
run train recipes/tiny-extend.yaml --max-steps 1 > /dev/null
if [[ $systems == *cepe* && ! -d $encoder ]]; then
  python -m sharedllm.systems.cepe.pretrain --tokens build/tokens-tiny/books --tokens build/tokens-tiny/code \
    --tokens build/tokens-tiny/proofs --output "$encoder" --steps "${ENCODER_STEPS:-1500}"
fi
only=()
for system in $systems; do only+=(--only "$system"); done
run ablate recipes/compare/longer.yaml "${only[@]}" --no-reference
for system in $systems; do
  for domain in books code proofs; do
    model=build/compare/longer/$system/seed-0/model
    which=(--trained "$model" --system "${system%%-*}")
    [ "$system" = paper ] && which=(--model "$model" --system sharedllm,bm25-same)
    run eval loss loss-other --data "$domain=build/tokens-tiny/$domain-validation" "${which[@]}" \
      --cases 4 --lengths 0,1W,4W,16W --longest 16W -o "$out/cells/$system-$domain"
  done
  run report "$out/cells/$system"-{books,code,proofs} -o "$out/$system"
done
# Beside them, on the same targets: the bundled model, the base's window alone, StreamingLLM, and what BM25 finds in a window.
for domain in books code proofs; do
  run eval loss loss-other --data "$domain=build/tokens-tiny/$domain-validation" --model tiny --base base --system sharedllm,window,streaming,bm25,bm25-same \
    --cases 4 --lengths 0,1W,4W,16W --longest 16W -o "$out/cells/beside-$domain"
done
run report "$out/cells/beside"-* -o "$out/beside"
