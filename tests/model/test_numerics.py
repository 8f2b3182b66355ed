"""Checks that each find one kind of mistake, and deliberate mistakes (mutations) that prove it.

Everything runs in float64 with wide weights, so any difference beyond rounding shows.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import pad, random_texts, tiny_base, tiny_shared
from torch import Tensor
from transformers.models.llama import modeling_llama

from sharedllm import SharedLLMForCausalLM, SharedLLMModel
from sharedllm.model import backbone
from sharedllm.model import encode as reading
from sharedllm.reference import reference_logits

INJECTIONS = ("cross", "joint")
RUNNING = random_texts([24, 9, 17])
# No tokens, less than a chunk of 16, and several chunks with a rest.
CONTEXTS = random_texts([53, 0, 11], 1)


@pytest.fixture(autouse=True)
def float64_norms(monkeypatch):
    """RMSNorm that keeps its dtype throughout; transformers' rounds to float32."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", forward)


def wide_model(injection: str) -> SharedLLMForCausalLM:
    base = tiny_base("llama", initializer_range=0.5, max_position_embeddings=64)
    return tiny_shared("llama", base=base, injection=injection).double()


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def check_pieces(model: SharedLLMForCausalLM) -> None:
    """One pass = several tokens at a time = token by token, through a cache, padded."""
    ids, mask = pad(RUNNING)
    memory = model.read(*pad(CONTEXTS, "right"))
    expected = model(ids, attention_mask=mask, memory=memory).logits
    for size in (1, 7):
        cache, rows, seen = None, [], 0
        for piece in ids.split(size, 1):
            seen += piece.shape[1]
            out = model(piece, attention_mask=mask[:, :seen], memory=memory, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits)
        assert_close(torch.cat(rows, 1)[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def check_batch(model: SharedLLMForCausalLM) -> None:
    """A padded batch = each text alone, with padding on either side of running text and context."""
    for side in ("left", "right"):
        ids, mask = pad(RUNNING, side)
        context, context_mask = pad(CONTEXTS, side)
        options = {"context_ids": context, "context_attention_mask": context_mask}
        logits = model(ids, attention_mask=mask, **options).logits
        for row, (text, own) in enumerate(zip(RUNNING, CONTEXTS, strict=True)):
            alone = model(torch.tensor([text]), context_ids=torch.tensor([own], dtype=torch.long)).logits[0]
            assert_close(logits[row][mask[row].bool()], alone)


@torch.no_grad()
def check_reference(model: SharedLLMForCausalLM) -> None:
    """The reference's logits."""
    for text, own in zip(RUNNING, CONTEXTS, strict=True):
        got = model(torch.tensor([text]), context_ids=torch.tensor([own], dtype=torch.long)).logits[0]
        assert_close(got, reference_logits(model, text, own))


@torch.no_grad()
def check_causality(model: SharedLLMForCausalLM) -> None:
    """A token changes no earlier logit but does change its own; a kept token of the context changes all."""
    ids, context = torch.tensor(RUNNING[:1]), torch.tensor(CONTEXTS[:1])
    before = model(ids, context_ids=context).logits
    for place in (0, 11, 23):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % 101
        after = model(changed, context_ids=context).logits
        assert_close(after[:, :place], before[:, :place])
        assert (after - before)[0, place].abs().max() > 1e-3
    # The last token of a chunk is kept at every stride.
    changed = context.clone()
    changed[0, 15] = (changed[0, 15] + 1) % 101
    assert ((model(ids, context_ids=changed).logits - before).abs().amax(-1) > 1e-6).all()


CHECKS = [check_pieces, check_batch, check_reference, check_causality]


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_checks_hold(check, injection):
    check(wide_model(injection))


# --- deliberate mistakes ----------------------------------------------------------------------------------------------

forward, prepare = SharedLLMModel.forward, backbone.prepare


def positions_begin_anew_at_each_step(monkeypatch):
    def mistaken(self, input_ids=None, **options):
        positions = torch.arange(input_ids.shape[1])[None].expand(len(input_ids), -1)
        return forward(self, input_ids, **options | {"position_ids": positions})

    monkeypatch.setattr(SharedLLMModel, "forward", mistaken)


def padding_of_running_text_is_read(monkeypatch):
    def mistaken(self, input_ids=None, attention_mask=None, **options):
        return forward(self, input_ids, None, **options)

    monkeypatch.setattr(SharedLLMModel, "forward", mistaken)


def padding_of_contexts_is_read(monkeypatch):
    def mistaken(self, input_ids=None, context_attention_mask=None, **options):
        return forward(self, input_ids, context_attention_mask=None, **options)

    monkeypatch.setattr(SharedLLMModel, "forward", mistaken)


def two_trees_are_swapped(monkeypatch):
    def mistaken(memory, *rest):
        swapped = memory.chunk.clone()
        swapped[memory.chunk == 0], swapped[memory.chunk == 1] = 1, 0
        return prepare(replace(memory, chunk=swapped), *rest)

    monkeypatch.setattr(backbone, "prepare", mistaken)


def first_of_each_stride_is_kept(monkeypatch):
    right = reading.sample
    monkeypatch.setattr(reading, "sample", lambda nodes, strides, keep: right(nodes, strides, "first"))


def running_text_sees_ahead(monkeypatch):
    def mistaken(self, input_ids=None, **options):
        for layer in self.upper.layers:
            layer.self_attn.is_causal = False
        # A mask of zeros is added to all scores.
        length = input_ids.shape[1]
        options["attention_mask"] = torch.zeros(len(input_ids), 1, length, length, dtype=torch.float64)
        return forward(self, input_ids, **options)

    monkeypatch.setattr(SharedLLMModel, "forward", mistaken)


MISTAKES = [
    (positions_begin_anew_at_each_step, check_pieces),
    (padding_of_running_text_is_read, check_batch),
    (padding_of_contexts_is_read, check_batch),
    (two_trees_are_swapped, check_reference),
    (first_of_each_stride_is_kept, check_reference),
    (running_text_sees_ahead, check_causality),
]


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize(("mistake", "check"), MISTAKES, ids=lambda value: value.__name__)
def test_mistakes_are_found(monkeypatch, mistake: Callable, check: Callable, injection):
    model = wide_model(injection)
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check(model)
