#!/usr/bin/env bash
# SharedLLM and its rivals on a CPU with bf16 matrix products: 16 layers of 1,024, 4K to 128K tokens in front of a window of 4,096.
# What is expected to take longer than LIMIT seconds a run is left out. Hours on two cores that do nothing else; run it again to
# go on where it stopped.
#
#   runs/bench_cpu.sh OUT
#
# SMOKE=1 measures the tiny shape within a minute.
set -euo pipefail
out=${1:?"usage: runs/bench_cpu.sh OUT"}
shape=(--shape cpu-16x1024 --lengths 4K,8K,16K,32K,64K,128K --repeats 3 --limit-seconds "${LIMIT:-900}")
if [ -n "${SMOKE:-}" ]; then shape=(--shape tiny --lengths 512,2K --repeats 1 --new-tokens 4); fi
# glibc's malloc keeps what was freed; with a few arenas peaks of memory are what is needed.
export MALLOC_ARENA_MAX=2
python -m sharedllm bench "${shape[@]}" --dtype bf16 --device cpu -o "$out"
