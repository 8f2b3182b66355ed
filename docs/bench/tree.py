"""How long 8K tokens take by M, by the height and the compression of the tree, and with a question that selects: a context of
one window and a running text of another, as in the paper's figure of time. Random weights, one thread, thread time, which
other processes do not add to; the settings take turns. Ten minutes.

Run: python docs/bench/tree.py [SHAPE] [ROUNDS]    # writes docs/bench/tree.json; then python docs/bench/make_tables.py
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sharedllm import SharedLLMForCausalLM
from sharedllm.benchmark.shapes import get_shape
from sharedllm.utils.hardware import environment

QUESTION = 32  # tokens
THREE = [16, 8, 4]
# Strides keep every eighth token but where β is the setting. The first setting is the paper's, with which the others are compared.
SETTINGS: list[dict[str, Any]] = [
    {"change": "M = 4, three levels, β = 8", "layers": 4, "strides": THREE},
    *({"change": f"M = {layers}", "layers": layers, "strides": THREE} for layers in (1, 2, 8)),
    {"change": "two levels", "layers": 4, "strides": [12, 6]},
    {"change": "four levels", "layers": 4, "strides": [16, 8, 4, 4]},
    {"change": "β = 1", "layers": 4, "strides": [1, 1, 1]},
    {"change": "β = 4", "layers": 4, "strides": [8, 4, 2]},
    {"change": "β = 16", "layers": 4, "strides": [32, 16, 8]},
    {"change": "a question selects", "layers": 4, "strides": THREE, "question": QUESTION},
]


@torch.no_grad()
def main(shape: str = "cpu-16x1024", rounds: str = "3") -> None:
    torch.set_num_threads(1)
    own = get_shape(shape)
    base = own.build(torch.bfloat16, torch.device("cpu"))
    context, running, question = torch.randint(own.vocab_size, (3, 1, own.window)).unbind()
    seconds: list[list[float]] = [[] for _ in SETTINGS]
    for turn in range(1 + int(rounds)):
        for setting, times in zip(SETTINGS, seconds, strict=True):
            asked = question[:, : setting.get("question", 0)]
            model = SharedLLMForCausalLM.from_base(
                base,
                window=own.window,
                chunk_size=own.chunk_size,
                lower_layers=setting["layers"],
                strides=setting["strides"],
                selection="cosine" if asked.numel() else "right",
            ).eval()
            start = time.thread_time()
            memory = model.model.read(context, query_ids=asked if asked.numel() else None, fingerprint=False)
            model(running, memory=memory, logits_to_keep=1)
            if turn:  # the first round warms up
                times.append(round(time.thread_time() - start, 3))
            print(turn, setting["change"], round(time.thread_time() - start, 2), flush=True)
    rows = [s | {"seconds": t, "median": statistics.median(t)} for s, t in zip(SETTINGS, seconds, strict=True)]
    about = {"shape": shape, "window": own.window, "chunk_size": own.chunk_size, "environment": environment()}
    Path(__file__).with_name("tree.json").write_text(
        json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
