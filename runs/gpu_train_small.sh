#!/usr/bin/env bash
# Trains the `small` model on one GPU, in commands of at most ten minutes: run it again and again until it says that a
# stage is done, then with the next stage. A run resumes from its last checkpoint.
#
#   runs/gpu_train_small.sh base CORPUS OUT       # 83M parameters, window 1,024, from scratch
#   runs/gpu_train_small.sh extend CORPUS OUT     # on samples of 2,048 tokens
#   runs/gpu_train_small.sh pieces CORPUS OUT     # the model in files of at most 15 MB, for copying back
#
# SMOKE=1 makes minute-long runs of a small shape, for a CPU.
set -euo pipefail
stage=${1:?"usage: runs/gpu_train_small.sh base|extend|pieces CORPUS OUT"}
export CORPUS=${2:?"name the folder of the corpus"}
out=${3:?"name the folder of the runs"}
export OUT=$out
limit=${LIMIT:-540}
here=$(dirname "$0")
smoke=()
if [ -n "${SMOKE:-}" ]; then
  sizes=(model.hidden_size=64 model.intermediate_size=128 model.num_hidden_layers=16 model.num_attention_heads=4
         model.num_key_value_heads=2)
  common=(steps=4 batch_tokens=8192 micro_tokens=8192 checkpoint_every=2 validation.every=4 validation.rows=2
          validation.task_rows=2 "validation.windows=[0,1]")
  for change in "${common[@]}"; do smoke+=(--set "$change"); done
  if [ "$stage" = base ]; then for change in "${sizes[@]}"; do smoke+=(--set "$change"); done; fi
fi

case $stage in
  base | extend)
    # 124: the time is up; the next call resumes.
    code=0
    timeout "$limit" python -m sharedllm train "$here/../recipes/small-$stage.yaml" "${smoke[@]}" || code=$?
    if [ "$code" = 124 ]; then echo "not done yet: run it again"; exit 0; fi
    exit "$code"
    ;;
  pieces)
    python - "$out" <<'PY'
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import sharedllm  # noqa: F401  (registers the model)

out = Path(sys.argv[1])
if not any((out / f"small-{stage}" / "model").is_dir() for stage in ("base", "extend")):
    sys.exit(f"{out} holds no trained model: run the stages base and extend first.")
for stage in ("base", "extend"):
    folder = out / f"small-{stage}" / "model"
    if folder.is_dir():
        pieces = out / f"small-{stage}-pieces"
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").save_pretrained(pieces, max_shard_size="15MB")
        AutoTokenizer.from_pretrained(folder).save_pretrained(pieces)
        shutil.copy(folder / "README.md", pieces)
        print(pieces, *sorted(f"{p.name} {p.stat().st_size:,}" for p in pieces.iterdir()), sep="\n  ")
PY
    ;;
  *)
    echo "unknown stage $stage" >&2
    exit 2
    ;;
esac
