#!/usr/bin/env bash
# Does the coarse memory of everything help an untrained base? The loss of running text by the length of the text before it,
# with the memory of the bottom layers in one softmax, for several depths M and strides, beside the base's window, full
# attention, and the memory of another document. Run it again to continue where it stopped.
#
#   runs/real_loss.sh BASE CORPUS OUT            # CORPUS: folder with DOMAIN-validation-*.jsonl.zst
#   SMALL=1 runs/real_loss.sh BASE CORPUS OUT    # one depth, a place in each document, short
#
# DEPTHS="4 8", STRIDES="8 1" and WINDOW=512 change what is measured.
set -euo pipefail
base=${1:?"usage: runs/real_loss.sh BASE CORPUS OUT"}
corpus=${2:?"name the folder with the validation texts"}
out=${3:?"name the folder of the results"}
depths=${DEPTHS:-4 8} strides=${STRIDES:-8 1} window=${WINDOW:-512} cases=${CASES:-1}
domains=${DOMAINS:-books code} lengths=${LENGTHS:-0,1W,4W,16W}
if [[ -n "${SMALL:-}" ]]; then
  depths=${DEPTHS:-2} window=${WINDOW:-64} lengths=${LENGTHS:-0,2W}
fi
data=()
for domain in $domains; do data+=(--data "$domain=$corpus/$domain-validation-*.jsonl.zst"); done
rivals=,window,full
for depth in $depths; do
  model=$out/model-$depth
  [[ -f "$model/config.json" ]] || python -m sharedllm extend "$base" -o "$model" --injection joint --encoding node \
    --lower-layers "$depth" --window "$window" --chunk-size "$((window < 512 ? window : 512))"
  systems=$(for stride in $strides; do printf 'sharedllm@%s/%s/%s,' "$stride" "$stride" "$stride"; done)
  options=("${data[@]}" --model "$model" --base "$base" --lengths "$lengths" --cases "$cases")
  python -m sharedllm eval loss "${options[@]}" --system "${systems%,}$rivals" -o "$out/M-$depth"
  python -m sharedllm eval loss-other "${options[@]}" --system "${systems%,}" -o "$out/M-$depth"
  python -m sharedllm report "$out/M-$depth"
  # The window and full attention are the same at every depth.
  rivals=
done
