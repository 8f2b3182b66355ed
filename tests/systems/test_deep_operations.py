"""The cost of a question over pieces that are read deeper, by formula and by a counter."""

from dataclasses import replace

import pytest
import torch
from helpers import tiny_base, tiny_shared
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sharedllm.systems.operations import Costs, run
from sharedllm.systems.sharedllm.operations import deep_answer, shared_read


def deep(layers: int, kept: int, prefix: list[int]):
    settings = {"injection": "deep", "encoding": "chunk", "prefix": prefix, "window": 64, "chunk_size": 16}
    base = tiny_base("qwen2", num_hidden_layers=4, vocab_size=64, max_position_embeddings=256)
    return tiny_shared("qwen2", base=base, lower_layers=layers, injection_map=[[i, i] for i in range(kept)], **settings)


@torch.no_grad()
def answer(model, memory, question):
    """The first token, and two more."""
    prepared = model.model.prepare_memory(memory)
    output = model(question, memory=prepared, use_cache=True, logits_to_keep=1)
    for _ in range(2):
        token = output.logits[:, -1:].argmax(-1)
        cache = output.past_key_values
        output = model(token, memory=prepared, past_key_values=cache, use_cache=True, logits_to_keep=1)


@pytest.mark.parametrize(("layers", "kept", "prefix"), [(1, 2, [5, 3]), (2, 2, []), (3, 1, [7])])
def test_operations_are_those_counted(layers, kept, prefix):
    model = deep(layers, kept, prefix)
    ids, question = torch.randint(0, 64, (1, 40)), torch.randint(0, 64, (1, 6))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        memory = model.read(ids, keep_all=True, fingerprint=False)
    assert shared_read(model.config, 40, keep_all=True) == counter.get_total_flops()
    first, again = (deep_answer(model.config, 40, 6, 2, again=a) for a in (False, True))
    # The prefix is read once, by a question before.
    answer(model, replace(memory, fingerprint="another"), question)
    for expected in (first, again):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            answer(model, replace(memory, fingerprint="this"), question)
        assert expected == counter.get_total_flops()
    assert deep_answer(model.config, 40, 6, 2, causal=True) < first


def test_a_question_costs_the_layers_above():
    """No more than the layers above M of reading the same pieces as text; the last layer computes only keys and values."""
    layers, kept = 2, 4096
    model = deep(layers, 3, [])
    costs = Costs.of(model.config.text_config)
    ours, text = deep_answer(model.config, kept, 8, 0), run(costs, kept + 8) + costs.head
    assert ours < (1 - layers / costs.layers) * text
