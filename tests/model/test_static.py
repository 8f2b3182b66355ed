"""Static shapes: generation with a static cache gives the same, and code compiled for one memory serves others in its
bucket."""

import pytest
import torch
from combined import combined
from helpers import pad, random_texts, tiny_base, tiny_shared
from shapes import unchecked
from torch._dynamo.utils import counters
from transformers import CompileConfig

from sharedllm.model.cross_attention import bucket

GREEDY = {"do_sample": False, "eos_token_id": None}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def asked(**changes) -> dict:
    ids, mask = pad(random_texts([9, 12]))
    return {"inputs": ids, "attention_mask": mask, "max_new_tokens": 8} | GREEDY | changes


@pytest.mark.parametrize(("family", "injection"), combined(FAMILIES, ["cross", "joint"]))
def test_static_cache_generates_the_same(family, injection):
    """For texts of several lengths including 0, and without any memory."""
    model = tiny_shared(family, injection=injection)
    memory = model.read(*pad(random_texts([70, 0], 1), "right"))
    for given in ({"memory": memory}, {}):
        expected = model.generate(**asked(**given))
        assert torch.equal(model.generate(**asked(**given), cache_implementation="static"), expected)


@pytest.mark.parametrize("injection", ["cross", "joint"])
def test_padding_to_a_bucket_changes_nothing(injection):
    model = tiny_shared("llama", injection=injection)
    memory, ids = model.read(*pad(random_texts([70, 33], 1), "right")), torch.tensor(random_texts([9, 9]))
    plain, static = model.model.prepare_memory(memory), model.model.prepare_memory(memory, static=True)
    assert plain is not None and static is not None
    sizes = [{keys.shape[2] for keys, *_ in prepared.layers.values()} for prepared in (plain, static)]
    assert sizes == [{memory.mask.shape[1]}, {bucket(memory.mask.shape[1])}] and sizes[0] != sizes[1]
    with torch.no_grad():
        # Some CPUs add in another order where there are more columns.
        torch.testing.assert_close(
            model(ids, memory=static).logits, model(ids, memory=plain).logits, rtol=1e-4, atol=5e-5
        )


def test_buckets():
    """Buckets are never too small, less than 16 or an eighth larger than needed, and few."""
    sizes = [bucket(length) for length in range(1, 70_000)]
    assert all(0 <= size - length < max(16, length / 8) for length, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 8 * 11
    assert all(bucket(size) == size for size in set(sizes))


@pytest.mark.slow
@pytest.mark.parametrize("injection", ["cross", "joint"])
def test_one_graph_for_a_bucket(injection, monkeypatch):
    """A step compiles to one graph without breaks; longer and shorter memories in the bucket need no other graph."""
    unchecked(monkeypatch)
    model = tiny_shared("llama", base=tiny_base("llama", num_hidden_layers=2), lower_layers=1, injection=injection)
    # Without generating kernels, because only the graphs matter.
    compiled = CompileConfig(fullgraph=True, backend="eager", mode=None)
    compiled._compile_all_devices = True
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    for tokens in (220, 200, 160):
        memory = model.read(torch.tensor(random_texts([tokens, tokens], tokens)))
        expected = model.generate(**asked(memory=memory))
        out = model.generate(**asked(memory=memory), cache_implementation="static", compile_config=compiled)
        assert torch.equal(out, expected)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1, 2] and not counters["graph_break"]


def test_text_without_end_has_no_static_cache():
    with pytest.raises(ValueError, match="cache_implementation='static' can't restart"):
        tiny_shared("llama").generate(**asked(max_new_tokens=40), cache_implementation="static")
