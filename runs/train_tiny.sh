#!/usr/bin/env bash
# The bundled `tiny` from the bundled `base`, on a CPU with bf16 matrix products: 45 minutes on two cores. Run it again
# to resume. Needs `pip install -e '.[train,plot]'` and a folder with books, code and proofs as
# {domain}-{train,validation}-*.jsonl.zst.
#
#   runs/train_tiny.sh CORPUS [RECIPE]       # recipe: tiny-base, tiny-extend (default), tiny-long, tiny-recall, tiny-instruct
#
# The bundled weights are the mean of the results of tiny-long and tiny-recall, with the heads that find facts in a book:
#   python -m sharedllm.training.average build/tiny-extend-long/model build/tiny-recall/model -o build/tiny
#   sharedllm calibrate build/tiny --data BOOK.txt --most 4
set -euo pipefail
export CORPUS=${1:?"usage: runs/train_tiny.sh CORPUS [RECIPE]"}
recipe=${2:-tiny-extend}
here=$(dirname "$0")
# glibc's malloc fragments under attention over many lengths; jemalloc (Debian: libjemalloc2), used if installed, does not.
jemalloc=$(ls /usr/lib/*/libjemalloc.so.2 2>/dev/null | head -n 1 || true)
if [ -n "$jemalloc" ]; then
  export LD_PRELOAD=$jemalloc MALLOC_CONF=dirty_decay_ms:20000,muzzy_decay_ms:20000
fi
python -m sharedllm train "$here/../recipes/$recipe.yaml"
