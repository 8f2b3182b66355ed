#!/usr/bin/env bash
# The bundled models from scratch, on a CPU with bf16 matrix products: about 20 minutes for the first stage of the base,
# 50 for the second, 50 for the extension on two cores. Needs `pip install -e '.[train,plot]'` and the corpus folder.
#
#   runs/tiny/train_tiny.sh CORPUS [OUT]
set -euo pipefail
corpus=${1:?"usage: runs/tiny/train_tiny.sh CORPUS [OUT]"}
out=${2:-build/tiny}
here=$(dirname "$0")
# glibc's malloc fragments under attention over many lengths; jemalloc (Debian: libjemalloc2), where it is there, does not.
jemalloc=$(ls /usr/lib/*/libjemalloc.so.2 2>/dev/null | head -n 1 || true)
if [ -n "$jemalloc" ]; then
  export LD_PRELOAD=$jemalloc MALLOC_CONF=dirty_decay_ms:20000,muzzy_decay_ms:20000
fi

python "$here/prepare_corpus.py" --corpus "$corpus" --out "$out"
python "$here/train_base.py" --data "$out" --curriculum text --tokens 26e6 --max-steps 600 --seed 0 --out "$out/base-text"
python "$here/train_base.py" --data "$out" --curriculum recall --init "$out/base-text" --tokens 20e6 --seed 1 --out "$out/base"
python "$here/train_extension.py" --data "$out" --base "$out/base" --steps 650 --seed 0 --out "$out/extended"
python "$here/evaluate_books.py" --data "$out" --base "$out/base" --model "$out/extended" --anchors 6 --out "$out/books.json"
