#!/usr/bin/env bash
# Recall in texts of 8K to 1M tokens, by policy and budget, with the bundled model: three hours on one core, mostly for
# the texts of 1M. Run it again to resume.
#
#   runs/recall_tiny.sh TOKENS OUT [MODEL]     # TOKENS: a folder of `sharedllm tokenize`, or text files, with the test books
set -euo pipefail
tokens=${1:?"usage: runs/recall_tiny.sh TOKENS OUT [MODEL]"}
out=${2:?"name the folder of the results"}
python -m sharedllm recall --data "books=$tokens" --model "${3:-tiny}" --lengths "${LENGTHS:-8K,64K,256K,1M}" \
  --budgets 512,1024,4096,16384 --scores focus,bm25,attention,hybrid,oracle,tree --cases "${CASES:-100}" --per-text 20 -o "$out"
