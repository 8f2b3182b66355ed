#!/usr/bin/env bash
# Peak memory above the weights at the shapes of LLaMA-2-7B and Llama-3-8B on a CPU (random weights, bf16, 128K tokens):
# after a question of 480 tokens, after a full window without a cache (nothing is decoded), and after one with its
# cache. A quarter of an hour each on two cores, and 24 GB.
#
#   runs/peak_7b_cpu.sh llama-2-7b|llama-3-8b OUT
#
# SMOKE=1 measures the tiny shape within a minute.
set -euo pipefail
shape=${1:?"usage: runs/peak_7b_cpu.sh llama-2-7b|llama-3-8b OUT"}
out=${2:?"name the folder of the results"}
length=128K
if [ -n "${SMOKE:-}" ]; then shape=tiny length=2K; fi
# glibc's malloc keeps freed memory. With few arenas, and blocks of a megabyte or more always taken from and returned to
# the system, the peaks show the memory that is really needed; this costs time, which is not measured here.
export MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576
measure() {
  python -m sharedllm bench --shape "$shape" --lengths "$length" --system sharedllm --repeats 0 --batch-tokens 1024 \
    --dtype bf16 --device cpu "$@"
}
measure -o "$out/$shape-question" --running 480
measure -o "$out/$shape-window" --new-tokens 0
measure -o "$out/$shape"
