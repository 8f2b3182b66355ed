"""Reading and asking keep no graph for training unless it is requested."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm import Chat
from sharedllm.answering.ask import ask

TEXT = torch.arange(60)[None] % 50 + 1


def model_of(**settings):
    base = tiny_base("llama", vocab_size=256)
    return tiny_shared("llama", base=base, **{"injection": "joint", "encoding": "chunk"} | settings)


@pytest.mark.parametrize("keep_all", [False, True])
def test_what_is_read_has_no_graph_unless_it_is_asked_for(keep_all):
    model = model_of()
    memory = model.read(TEXT, keep_all=keep_all)
    again = model.append(memory, TEXT)
    kept = model.read(TEXT, keep_all=keep_all, gradients=True)
    for tensor in (*memory.keys, *memory.values, *again.keys, *again.values):
        assert not tensor.requires_grad
    assert kept.keys[0].requires_grad and torch.equal(kept.keys[0], memory.keys[0])
    assert model.append(kept, TEXT, gradients=True).values[-1].requires_grad
    with torch.no_grad():
        assert not model.read(TEXT, gradients=True).keys[0].requires_grad


def test_training_goes_through_what_is_read():
    model = model_of(split_noise=0.0).train()
    memory = model.read(TEXT)
    model(TEXT[:, :9], labels=TEXT[:, :9], memory=memory).loss.backward()
    trained = model.model.upper.layers[0].self_attn.k_proj.weight.grad
    model.zero_grad()
    model(TEXT[:, :9], labels=TEXT[:, :9], context_ids=TEXT).loss.backward()
    torch.testing.assert_close(model.model.upper.layers[0].self_attn.k_proj.weight.grad, trained)
    assert not model.read(TEXT, gradients=False).keys[0].requires_grad


@pytest.mark.parametrize("injection", ["joint", "deep"])
def test_asking_builds_no_graph(injection):
    model, tokenizer = model_of(injection=injection, lower_layers=2, window=64), byte_tokenizer()
    memory = model.read(TEXT, keep_all=True)
    graphs = []
    hook = lambda module, given, out: graphs.append(out.requires_grad)  # noqa: E731
    model.model.upper.layers[0].mlp.register_forward_hook(hook)
    answer = ask(model, tokenizer, memory, "who", max_new_tokens=3, budget=20)
    Chat(model, tokenizer, memory, max_new_tokens=3, budget=20).ask("who")
    scores = model.scores(memory, TEXT[:, :9]) if injection == "joint" else answer.scores
    assert graphs and not any(graphs) and not scores.requires_grad
