#!/usr/bin/env bash
# Trains a real base on one GPU, in commands of at most ten minutes: run each stage again until it says that it is done.
# A run resumes from its last checkpoint; finished seeds are left alone.
#
#   runs/gpu_real_train.sh tokens BASE CORPUS OUT     # BASE: a checkpoint's folder; CORPUS: {books,code,proofs}-{train,validation,test}-*.jsonl.zst
#   runs/gpu_real_train.sh lm BASE CORPUS OUT         # recipes/real-lm.yaml
#   runs/gpu_real_train.sh control BASE CORPUS OUT    # the same without reading any context
#   runs/gpu_real_train.sh band BASE CORPUS OUT       # real-lm.yaml with a memory of BAND, layers in the middle that can use one untrained
#   runs/gpu_real_train.sh band-control BASE CORPUS OUT   # adapters of the same layers, without reading any context
#   runs/gpu_real_train.sh paper BASE CORPUS OUT      # recipes/real-paper.yaml
#   runs/gpu_real_train.sh sft BASE CORPUS OUT        # recipes/real-sft.yaml
#   runs/gpu_real_train.sh evaluate BASE CORPUS OUT   # loss by length of context on the test texts, of all that was trained
#   runs/gpu_real_train.sh pack BASE CORPUS OUT       # OUT/pack: adapters of at most 16 MiB each, and everything else in one archive
#
# SEEDS="0 1 2"; BAND="8 17", the first layer and the last (of Qwen2.5-0.5B: docs/training/real.md); MICRO=32768: tokens of a forward pass; STEPS: fewer steps than the recipe's. SMALL=1 makes short runs of a
# small shape, for a CPU and a base of at least 512 positions and 4 layers.
set -euo pipefail
stage=${1:?"usage: runs/gpu_real_train.sh tokens|lm|control|band|band-control|paper|sft|evaluate|pack BASE CORPUS OUT"}
export REAL_MODEL=${2:?"name the base"} CORPUS=${3:?"name the folder of the corpus"} OUT=${4:?"name the folder of the runs"}
limit=${LIMIT:-540} seeds=${SEEDS:-0 1 2} here=$(dirname "$0")
domains=(books code proofs)
mkdir -p "$OUT"
export PYTORCH_ALLOC_CONF=expandable_segments:True

until_done() { # COMMAND …: what is left of the time; the next call resumes
  local left=$((limit - SECONDS)) code=0
  if ((left > 5)); then timeout "$left" "$@" || code=$?; else code=124; fi
  if [[ "$code" = 124 ]]; then echo "not done yet: run it again"; exit 0; fi
  if [[ "$code" != 0 ]]; then exit "$code"; fi
}

band() { # lora|all: settings for adapters in the layers of BAND; for their memory as well
  local first last map
  read -r first last <<<"${BAND:-8 17}"
  if [[ -n "${SMALL:-}" ]]; then first=1 last=1; fi
  echo "lora.layers=[$(seq -s ', ' "$first" "$last")]"
  if [[ "$1" = all ]]; then
    map=$(for ((n = first; n <= last; n++)); do printf '[%d, %d], ' "$n" "$n"; done)
    echo "model.lower_layers=$((last + 1))"
    echo "model.injection_map=[${map%, }]"
  fi
}

train() { # RECIPE NAME [OVERRIDE …]: every seed
  local recipe=$1 name=$2 seed override settings
  shift 2
  for seed in $seeds; do
    [[ -d "$OUT/$name/seed-$seed/model" ]] && continue
    settings=("seed=$seed" "output=$OUT/$name/seed-$seed" "micro_tokens=${MICRO:-32768}" "$@")
    if [[ -n "${STEPS:-}" ]]; then settings+=("steps=$STEPS"); fi
    if [[ -n "${SMALL:-}" ]]; then
      settings+=(steps=2 context=256 running=256 batch_tokens=1024 micro_tokens=512 checkpoint_every=1 model.window=256 model.chunk_size=64
        model.lower_layers=2 validation.every=2 validation.rows=2 validation.task_rows=2 "validation.windows=[0, 1]" questions=2)
      if [[ "$recipe" = real-paper ]]; then settings+=("lora.layers=[2, 3]"); fi
      if [[ "$recipe" = real-sft ]]; then settings+=(data.chat=false); fi
    fi
    local changes=()
    for override in "${settings[@]}"; do changes+=(--set "$override"); done
    until_done python -m sharedllm train "$here/../recipes/$recipe.yaml" "${changes[@]}"
  done
}

case $stage in
  tokens)
    for domain in "${domains[@]}"; do
      for part in train validation test; do
        folder=$OUT/tokens-real/$domain
        if [[ "$part" != train ]]; then folder+=-$part; fi
        [[ -d "$folder" ]] || until_done python -m sharedllm tokenize "$CORPUS/$domain-$part-*.jsonl.zst" --tokenizer "$REAL_MODEL" -o "$folder"
      done
    done
    ;;
  lm) train real-lm lm ;;
  control) train real-lm control control=empty ;;
  band) mapfile -t settings < <(band all) && train real-lm band "${settings[@]}" ;;
  band-control) mapfile -t settings < <(band lora) && train real-lm band-control control=empty "${settings[@]}" ;;
  paper) train real-paper paper ;;
  sft) train real-sft sft ;;
  evaluate)
    lengths=${LENGTHS:-0,2W,4W,16W,64W} cases=${CASES:-2}
    if [[ -n "${SMALL:-}" ]]; then lengths=0,2W cases=1; fi
    for seed in $seeds; do
      # The base in its window, and with pieces chosen by words in half of it, is measured once.
      for name in lm control band band-control paper; do
        model=$OUT/$name/seed-$seed/model
        [[ -d "$model" ]] || continue
        systems=sharedllm,empty
        if [[ "$name" = *control ]]; then systems=empty; fi
        if [[ "$name $seed" = "lm ${seeds%% *}" ]]; then systems+=,window,bm25; fi
        for domain in "${domains[@]}"; do
          until_done python -m sharedllm eval loss loss-other --data "$domain=$OUT/tokens-real/$domain-test" --model "$model" \
            --base "$REAL_MODEL" --system "$systems" --lengths "$lengths" --cases "$cases" --seed "$seed" -o "$OUT/cells/$name/$domain-$seed"
        done
      done
    done
    for name in lm control band band-control paper; do
      if [[ -d "$OUT/cells/$name" ]]; then python -m sharedllm report "$OUT/cells/$name"/* -o "$OUT/results/$name"; fi
    done
    ;;
  pack)
    mkdir -p "$OUT/pack"
    for folder in "$OUT"/{lm,control,band,band-control,paper,sft}/seed-*/adapter; do
      [[ -d "$folder" ]] || continue
      run=${folder#"$OUT"/}
      mkdir -p "$OUT/pack/${run%/adapter}"
      cp "$folder"/* "$OUT/pack/${run%/adapter}/"
    done
    (cd "$OUT" && find . -path ./pack -prune -o -type f \( -name '*.json*' -o -name '*.md' -o -name '*.png' \) -not -path '*/tokens-real/*' \
      -not -path '*/checkpoints/*' -not -name 'tokenizer*' -print0 | tar -cJf pack/results.tar.xz --null -T -)
    find "$OUT/pack" -type f -exec ls -l {} +
    ;;
  *)
    echo "unknown stage $stage" >&2
    exit 2
    ;;
esac
echo "$stage is done"
