"""Milliseconds of one decoded token over a memory of β = 8, by length: `python docs/bench/decode.py SHAPE DTYPE INJECTION LENGTH…`.

Memory and running text (a full window) are random, because the cost of a step does not depend on their content. With
one thread the time is thread time, which excludes other processes; with THREADS=2 or more it is wall-clock time, for an
idle machine. A length with the prefix `b` is cut to the shape's budget, one with `i` is held in 8 bits.
"""

import json
import os
import statistics
import sys
import time

import torch
from torch import Tensor
from transformers import DynamicCache

from sharedllm import ContextMemory, SharedLLMForCausalLM
from sharedllm.benchmark.measure import DTYPES
from sharedllm.benchmark.shapes import get_shape
from sharedllm.model.cache import with_room

STEPS, WARM, STRIDE = 24, 2, 8


@torch.no_grad()
def main(shape: str, dtype: str, injection: str, *lengths: str) -> dict[str, float]:
    threads = int(os.environ.get("THREADS", "1"))
    torch.set_num_threads(threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    own, kind = get_shape(shape), DTYPES[dtype]
    tree = {
        "window": own.window,
        "chunk_size": own.chunk_size,
        "strides": own.strides,
        "lower_layers": own.lower_layers,
    }
    base = own.build(kind, torch.device("cpu"))
    model = SharedLLMForCausalLM.from_base(base, injection=injection, **tree).eval()
    groups, dim = own.num_key_value_heads, own.hidden_size // own.num_attention_heads

    def heads(tokens: int) -> Tensor:
        return torch.randn(1, groups, 1, dim).to(kind).expand(-1, -1, tokens, -1).contiguous()

    def memory(tokens: int, budget: int | None) -> ContextMemory:
        kept = min(tokens // STRIDE, budget or tokens)
        places = ((torch.arange(kept) + 1) * (tokens // kept) - 1)[None]
        pairs = range(len(model.config.injection_map))
        return ContextMemory(
            keys=tuple(heads(kept) for _ in pairs),
            values=tuple(heads(kept) for _ in pairs),
            mask=torch.ones(1, kept, dtype=torch.bool),
            chunk=places // own.chunk_size,
            position=places,
            stride=torch.full((1, kept), STRIDE),
            token_ids=torch.zeros(1, 1, dtype=torch.int32),
            lengths=torch.tensor([tokens]),
            chunk_size=own.chunk_size,
        )

    milliseconds, token = {}, torch.zeros(1, 1, dtype=torch.long)
    for name in lengths:
        model.config.memory_dtype = "int8" if name[0] == "i" else "model"
        prepared = model.model.prepare_memory(memory(int(name.lstrip("bi")), own.budget if name[0] == "b" else None))
        cache, seconds = with_room(DynamicCache(config=base.config), base.config), []
        for layer in range(own.num_hidden_layers):
            cache.update(heads(own.window - STEPS - WARM), heads(own.window - STEPS - WARM), layer)
        for _ in range(STEPS + WARM):
            start = clock()
            model(token, memory=prepared, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds.append(clock() - start)
        milliseconds[name] = round(1e3 * statistics.median(seconds[WARM:]), 2)
    return milliseconds


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
