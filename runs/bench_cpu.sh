#!/usr/bin/env bash
# SharedLLM and other systems on a CPU with bf16 matrix products: 16 layers of 1,024, 4K to 128K tokens before a window
# of 4,096, ours up to 1M. Runs expected to take longer than LIMIT seconds are skipped. Takes hours on two idle cores,
# and 16 GB; run it again to resume.
#
#   runs/bench_cpu.sh OUT
#
# SMOKE=1 measures the tiny shape within a minute.
set -euo pipefail
out=${1:?"usage: runs/bench_cpu.sh OUT"}
# glibc's malloc keeps freed memory; with few arenas the peaks show the memory that is really needed.
export MALLOC_ARENA_MAX=2
measure() { python -m sharedllm bench --dtype bf16 --device cpu -o "$out" "$@"; }
if [ -n "${SMOKE:-}" ]; then
  measure --shape tiny --lengths 512,2K --repeats 1 --new-tokens 4
  exit
fi
options=(--shape cpu-16x1024 --repeats "${REPEATS:-1}" --limit-seconds "${LIMIT:-2500}")
measure "${options[@]}" --lengths 4K,16K,64K,128K
measure "${options[@]}" --lengths 256K,1M --system sharedllm,budget
