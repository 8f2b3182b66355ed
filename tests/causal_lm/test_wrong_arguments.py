"""Arguments of wrong types, shapes and values are refused in one line that names them."""

import pytest
import torch
from helpers import VOCAB, random_texts, tiny_shared

from sharedllm import SharedLLMForCausalLM

IDS = torch.tensor(random_texts([12, 12]))


@pytest.fixture(scope="module")
def model():
    return tiny_shared("llama", injection="joint", encoding="chunk")


@pytest.mark.parametrize("name", ["read", "append", "select", "scores", "fingerprint"])
def test_help_tells_what_a_method_takes(name):
    said = getattr(SharedLLMForCausalLM, name).__doc__
    assert "; see " not in said and ("Args:" in said or "as `select`" in said or "those of `read`" in said)


class Store:
    def load(self): ...


WRONG = {
    "text as a memory": (lambda m: m.generate(IDS, memory="text"), "memory is a str: pass what read"),
    "a store as a memory": (lambda m: m.generate(IDS, memory=Store()), r"memory is a Store: pass its load\(\)"),
    "text as a memory of forward": (lambda m: m(IDS, memory="text"), "memory is a str"),
    "keys as a memory": (lambda m: m(IDS, memory={"keys": []}), "memory is a dict"),
    "text to append to": (lambda m: m.append("text", IDS), "memory is a str"),
    "a prepared memory to append to": (lambda m: m.append(m.model.prepare_memory(m.read(IDS)), IDS), "memory is a PreparedMemory"),
    "text to select from": (lambda m: m.select("text", IDS[:1], budget=4), "a str is no memory"),
    "nothing to select from": (lambda m: m.select(None, IDS[:1], budget=4), "a NoneType is no memory"),
    "a list as a prompt": (lambda m: m.generate([[1, 2]]), "input_ids is a list: pass a tensor"),
    "text as a prompt": (lambda m: m.generate("Hello"), "input_ids is a str: pass a tensor"),
    "text as a context": (lambda m: m.generate(IDS, context_ids="text"), "context_ids is a str: pass a tensor"),
    "text to read": (lambda m: m.read("text"), "context_ids is a str: pass a tensor"),
    "nothing to read and ask": (lambda m: m.read(IDS[:, :0], keep_all=True), r"context_ids has shape \(2, 0\): give at least one row, of at least one token"),
    "no text to read and ask": (lambda m: m.read(IDS[:0], keep_all=True), r"context_ids has shape \(0, 12\)"),
    "a list of ids": (lambda m: m([1, 2, 3]), "input_ids is a list"),
    "labels beyond the vocabulary": (lambda m: m(IDS, labels=IDS + VOCAB), f"labels holds .* {VOCAB} entries: -100 stands for no target"),
    "labels below 0": (lambda m: m(IDS, labels=torch.full_like(IDS, -1)), "labels holds -1"),
    "labels that are no whole numbers": (lambda m: m(IDS, labels=IDS.float()), r"labels is of torch.float32: pass token ids"),
    "labels that are a list": (lambda m: m(IDS, labels=[1]), "labels is of list"),
    "shifted labels beyond": (lambda m: m(IDS, shift_labels=IDS + VOCAB), "shift_labels holds"),
    "positions without rows": (lambda m: m(IDS, position_ids=torch.arange(12)), r"position_ids has shape \(12,\), the input \(2, 12\)"),
    "positions of another length": (lambda m: m(IDS, position_ids=torch.arange(11)[None]), "position_ids has shape"),
    "positions of more rows": (lambda m: m(IDS, position_ids=torch.arange(12).expand(3, 12)), "position_ids has shape"),
    "positions in three dimensions": (lambda m: m(IDS, position_ids=torch.arange(12).expand(3, 2, 12)), "position_ids has shape"),
    "positions in between": (lambda m: m(IDS, position_ids=torch.arange(12.0)[None]), "position_ids has shape"),
    "half a token's logits": (lambda m: m(IDS, logits_to_keep=1.5), "logits_to_keep=1.5 is not a whole number"),
    "a number as a score": (lambda m: m.select(m.read(IDS[:1], keep_all=True), IDS[:1], budget=4, score=5), "score=5 is no score: use one of"),
    "a share that is a text": (lambda m: m.select(m.read(IDS[:1], keep_all=True), IDS[:1], budget=50, gist="x"), "gist='x' is not a share"),
    "a number as strides": (lambda m: m.select(m.read(IDS[:1], keep_all=True), IDS[:1], budget=50, strides=5), "strides=5 must be one"),
    "a length that is a text": (lambda m: m.generate(IDS, max_length="9"), "max_length='9' is not a whole number"),
    "no beams": (lambda m: m.generate(IDS, max_new_tokens=2, num_beams=0), "num_beams=0 asks for nothing"),
    "positions in a list": (lambda m: m(IDS, position_ids=[1]), "position_ids has list"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(model, name):
    use, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as refused:
        use(model)
    assert "\n" not in str(refused.value)


@torch.no_grad()
def test_right_ones_of_the_same_kinds(model):
    positions = torch.arange(12)
    plain = model(IDS, labels=IDS)
    for given in (positions[None], positions.expand(2, 12), positions[None].int()):
        assert torch.equal(model(IDS, position_ids=given).logits, plain.logits)
    ignored = IDS.clone()
    ignored[:, :6] = -100
    assert model(IDS, labels=ignored).loss.isfinite() and torch.equal(model(IDS, labels=IDS.int()).loss, plain.loss)
