"""Every family of the table: its layers, taken apart and reassembled, equal transformers'."""

import pytest
import torch
from combined import FEW, combined, kinds
from helpers import FAMILIES, SPECIAL, pad, random_texts, tiny_base, tiny_shared

from sharedllm import SharedLLMForCausalLM
from sharedllm.model.families import FAMILIES as TABLE
from sharedllm.model.families import wiring

# Families that other tests cover in all combinations are not tested here again.
PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
MORE = [family for family in TABLE if family not in FAMILIES]
# Ministral 3 scales queries by position, beyond its original training length.
RELATIVE = {
    "ministral3": {
        "rope_parameters": SPECIAL["ministral3"]["rope_parameters"] | {"original_max_position_embeddings": 64}
    }
}


def in_relative_positions(base):
    """Hunyuan applies norm weights after RoPE: only with equal weights within a rotated pair do distances alone matter."""
    for name, parameter in base.named_parameters():
        if "query_layernorm" in name or "key_layernorm" in name:
            parameter.data = parameter.data[: len(parameter) // 2].repeat(2)
    return base


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "settings"), kinds([*((family, {}) for family in TABLE), ("phi3", PARTIAL)]), ids=str
)
def test_a_memory_of_everything_is_full_attention(family, settings):
    """All layers read one chunk at stride 1 and true positions: the base over context and running text at once."""
    base = in_relative_positions(tiny_base(family, **RELATIVE.get(family, {}) | settings))
    model = SharedLLMForCausalLM.from_base(
        base,
        window=32,
        chunk_size=32,
        strides=[1],
        lower_layers=4,
        encoding="chunk",
        injection="joint",
        key_position="offset",
    ).eval()
    text = torch.tensor(random_texts([50, 50]))
    expected = base(text).logits[:, 28:]
    got = model(text[:, 28:], memory=model.read(text[:, :28])).logits
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)
    assert (model(text[:, 28:]).logits - expected).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("family", kinds(TABLE, ("llama", *FEW)))
def test_an_mlp_takes_some_tokens_at_a_time(family, monkeypatch):
    """For batches too, with the same result; mixtures of experts take all tokens, because router decisions are recorded
    per call."""
    base, ids = tiny_base(family), torch.tensor(random_texts([20, 20]))
    model, seen = SharedLLMForCausalLM.from_base(base, window=32, chunk_size=16, lower_layers=2), []
    expected = model(ids, context_ids=ids).logits
    monkeypatch.setattr(wiring, "_NUMBERS", 7 * 32)
    model.model.upper.layers[3].mlp.register_forward_hook(lambda m, given, out: seen.append(given[0].shape[:2].numel()))
    torch.testing.assert_close(model(ids, context_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert seen == ([40] if "moe" in family or family in ("mixtral", "gpt_oss") else [7, 7, 7, 7, 7, 5])
    seen.clear()
    with torch.enable_grad():
        model(ids)
    assert seen == [40]


@torch.no_grad()
@pytest.mark.parametrize("family", kinds(MORE, FEW))
def test_cross_attention_changes_nothing_until_it_is_trained(family):
    base = tiny_base(family)
    model = SharedLLMForCausalLM.from_base(base, window=32, chunk_size=16, strides=[4, 2, 1], lower_layers=3).eval()
    contexts, running = pad(random_texts([45, 17])), torch.tensor(random_texts([12, 12], seed=1))
    memory = model.read(*contexts)
    assert torch.equal(model(running, memory=memory).logits, base(running).logits)
    assert_same(model.read(*contexts, plain=True), memory)


@pytest.mark.parametrize(("family", "injection"), combined(MORE, ("cross", "joint"), fast=FEW.__contains__))
def test_reads_decodes_trains_and_comes_back(family, injection, tmp_path):
    """Over a memory, left-padded running text token by token equals one pass; gradients reach every part that reads the
    memory."""
    settings = {"injection": injection, "encoding": "chunk", "injection_map": [[0, 0], [1, 1], [2, 2], [2, 3]]}
    model = tiny_shared(family, base=tiny_base(family), **settings)
    contexts, (ids, mask) = pad(random_texts([45, 17])), pad(random_texts([12, 9], seed=1), side="left")
    with torch.no_grad():
        memory = model.read(*contexts)
        whole = model(ids, attention_mask=mask, memory=memory).logits
        step = model(ids[:, :8], attention_mask=mask[:, :8], memory=memory, use_cache=True)
        later = [step.logits[:, -1]]
        for at in range(8, 12):
            cache = step.past_key_values
            step = model(ids[:, at : at + 1], attention_mask=mask[:, : at + 1], memory=memory, past_key_values=cache)
            later.append(step.logits[:, -1])
    torch.testing.assert_close(torch.stack(later, 1), whole[:, 7:], atol=1e-4, rtol=1e-4)
    model(ids, attention_mask=mask, context_ids=contexts[0], context_attention_mask=contexts[1]).logits.sum().backward()
    injections = [p for n, p in model.named_parameters() if ".injection." in n]
    assert injections and all(p.grad is not None and p.grad.isfinite().all() for p in injections)
    model.save_pretrained(tmp_path)
    again = SharedLLMForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        read = again(ids, attention_mask=mask, memory=again.read(*contexts)).logits
    torch.testing.assert_close(read, whole, atol=1e-4, rtol=1e-4)


def assert_same(got, expected) -> None:
    for ours, theirs in zip((*got.keys, *got.values), (*expected.keys, *expected.values), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
