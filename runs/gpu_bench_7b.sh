#!/usr/bin/env bash
# SharedLLM and other systems at the shapes of LLaMA-2-7B and Llama-3-8B on one GPU (random weights, bf16, 8K to 1M
# tokens), in commands of at most ten minutes: run it again and again until it says that a shape is done. Runs that
# exceed memory are recorded as OOM; runs expected to take longer than a minute are skipped, with their prediction.
#
#   runs/gpu_bench_7b.sh llama-2-7b OUT
#   runs/gpu_bench_7b.sh llama-3-8b OUT
#
# RUNNING=480 BATCH_TOKENS=1024 asks a question instead of running a whole window, in pieces, to show how little memory
# an answer needs. NEW_TOKENS=0 decodes nothing, and keeps no cache of the window, which is one pass.
#
# SMOKE=1 measures the tiny shape on a CPU within a minute.
set -euo pipefail
shape=${1:?"usage: runs/gpu_bench_7b.sh llama-2-7b|llama-3-8b OUT"}
out=${2:?"name the folder of the results"}
limit=${LIMIT:-540}
options=(--shape "$shape" --device cuda --lengths "${LENGTHS:-8K,16K,32K,64K,128K,256K,512K,1M}" --repeats "${REPEATS:-3}"
         --limit-seconds "${SECONDS_A_RUN:-60}" --system "${SYSTEMS:-sharedllm,budget,streaming,full,beacon,cepe,cepe-states,window}")
if [ -n "${RUNNING:-}" ]; then options+=(--running "$RUNNING"); fi
if [ -n "${NEW_TOKENS:-}" ]; then options+=(--new-tokens "$NEW_TOKENS"); fi
if [ -n "${BATCH_TOKENS:-}" ]; then options+=(--batch-tokens "$BATCH_TOKENS"); fi
if [ -n "${SMOKE:-}" ]; then options=(--shape tiny --device cpu --lengths 512,2K --repeats 1 --new-tokens 4); fi
# Blocks of all sizes are freed and allocated again at every length.
export PYTORCH_ALLOC_CONF=expandable_segments:True
# 124: the time is up; the next call resumes.
code=0
timeout "$limit" python -m sharedllm bench "${options[@]}" --dtype bf16 -o "$out/$shape" || code=$?
if [ "$code" = 124 ]; then echo "not done yet: run it again"; exit 0; fi
exit "$code"
