"""Every family compared with its own class in transformers: the lower model over a chunk, generate() and labels."""

import pytest
import torch
from combined import FEW, combined, kinds
from helpers import pad, random_texts, tiny_base
from transformers import DynamicCache

from sharedllm import SharedLLMForCausalLM
from sharedllm.model import encode as reading
from sharedllm.model.families import FAMILIES as TABLE
from sharedllm.model.families import Rotations
from sharedllm.model.rope import rotate

# Families with sliding layers: chunk and running text are longer than the sliding window.
SLIDING = (
    "cohere2",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "ministral",
    "mistral",
    "mixtral",
    "olmo3",
    "phi3",
    "starcoder2",
)
CASES = [*((family, {}) for family in TABLE), *((family, {"sliding_window": 8}) for family in SLIDING)]
CHANGED = [
    ("stablelm", {"use_parallel_residual": False, "qk_layernorm": False}),
    ("glm4_moe", {"use_qk_norm": False}),
    ("cohere", {"use_qk_norm": False}),
    ("olmo", {"clip_qkv": None}),
]
CASES += CHANGED
OFTEN = [*((family, {}) for family in FEW), ("gemma3_text", {"sliding_window": 8}), CHANGED[0]]
BALANCED = [family for family, entry in TABLE.items() if entry.balanced]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 9.0, 30.0, 60.0],
    "original_max_position_embeddings": 32,
    "short_mscale": 1.2,
    "long_mscale": 1.5,
}
BORDERED = [family for family, entry in TABLE.items() if entry.border is not TABLE["llama"].border]


def extended(base, **settings):
    """A model whose gates are at 0."""
    settings = {"window": 64, "chunk_size": 16, "strides": [4, 2, 1], "lower_layers": 3} | settings
    return SharedLLMForCausalLM.from_base(base, **settings).eval()


@torch.no_grad()
@pytest.mark.parametrize(("case", "weights"), combined(CASES, ["shared", "copy"], fast=OFTEN.__contains__), ids=str)
def test_the_lower_model_is_the_base_over_a_chunk(case, weights):
    """Keys and values of all layers equal the base's cache, and the streams entering them equal its hidden states."""
    family, settings = case
    base, text = tiny_base(family, **settings), torch.tensor(random_texts([28]))
    cache = DynamicCache(config=base.config)
    streams = base(text, past_key_values=cache, use_cache=True, output_hidden_states=True).hidden_states
    model = extended(base, chunk_size=28, strides=[1], lower_layers=4, encoding="chunk", lower_weights=weights)
    memory, lower = model.read(text), model.model.lower()
    by = Rotations(lower.rotary, base.config, torch.arange(28)[None], streams[0])
    for index, layer in enumerate(cache.layers):
        kept, attention = layer.keys.shape[2], getattr(lower.layers[index], lower.family.attention)
        keys = rotate(memory.keys[index], by.keys(index, attention))
        close(keys[:, :, -kept:], layer.keys)
        close(memory.values[index][:, :, -kept:], layer.values)
    seen = []

    def project(states):
        seen.append(states)
        return states[:1]

    plan = model.model._encoder(None, None)
    units, unit, samples = reading.plan(plan, text, torch.tensor([28]), None, None)
    lower.encode(text, units, unit, samples.position, 3, project)
    for index, state in enumerate(seen[0]):
        close(state, streams[index][0])


@torch.no_grad()
@pytest.mark.parametrize(("case", "injection"), combined(CASES, ["cross", "joint"], fast=OFTEN.__contains__), ids=str)
def test_generates_as_its_base(case, injection):
    """Left-padded, beyond the sliding window; also joint attention without a memory."""
    family, settings = case
    base = tiny_base(family, **settings)
    ids, mask = pad(random_texts([20, 13], seed=2))
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = base.generate(ids, **options)
    assert torch.equal(extended(base, injection=injection).generate(ids, **options), expected)


@pytest.mark.parametrize("family", kinds(TABLE, ("llama", *FEW)))
def test_labels_as_its_base(family):
    """The loss, and its gradient in the embedding."""
    base, (ids, mask) = tiny_base(family), pad(random_texts([20, 13], seed=3), side="right")
    labels = ids.masked_fill(mask == 0, -100)
    (expected,) = gradient(base, base(ids, attention_mask=mask, labels=labels).loss)
    model = extended(base)
    output = model(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(output.loss, base(ids, attention_mask=mask, labels=labels).loss)
    close(gradient(base, output.loss)[0], expected)


@pytest.mark.parametrize("family", BALANCED)
def test_the_loss_that_balances_experts(family):
    """Requested by the configuration or by the call; over a memory it is the running text's."""
    base = tiny_base(family, output_router_logits=True, router_aux_loss_coef=0.5)
    ids, mask = pad(random_texts([20, 13], seed=3), side="right")
    labels = ids.masked_fill(mask == 0, -100)
    model = extended(base)
    expected, got = (m(ids, attention_mask=mask, labels=labels) for m in (base, model))
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(got.aux_loss, expected.aux_loss)
    without = model(ids, attention_mask=mask, labels=labels, output_router_logits=False)
    torch.testing.assert_close(got.loss, without.loss + 0.5 * got.aux_loss)
    assert got.aux_loss > 0.1
    over = model(ids, attention_mask=mask, labels=labels, context_ids=torch.tensor(random_texts([40, 40])))
    torch.testing.assert_close(over.aux_loss, expected.aux_loss)
    options = {"attention_mask": mask.flip(1), "max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert model.generate(ids.flip(1), **options).shape == (2, 23)


@torch.no_grad()
@pytest.mark.parametrize("family", BORDERED)
def test_generates_as_its_base_across_the_border_of_longrope(family):
    """At 32 tokens all rotary frequencies change, which invalidates the cache."""
    rope = LONGROPE if family == "phimoe" else {k: v for k, v in LONGROPE.items() if "mscale" not in k}
    base = tiny_base(family, rope_parameters=rope, original_max_position_embeddings=32)
    (ids,) = [torch.tensor(random_texts([24], seed=2))]
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}
    expected = base.generate(ids, **options)
    assert torch.equal(extended(base).generate(ids, **options), expected)
    base.config.original_max_position_embeddings = 1000  # then its cache is kept: the border is in this text
    assert not torch.equal(base.generate(ids, **options), expected)


def gradient(base, loss):
    return torch.autograd.grad(loss, [base.get_input_embeddings().weight])


def close(got, expected) -> None:
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)
