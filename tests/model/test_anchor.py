"""`anchor`: the first token of the running text sees no memory, so it stays what the base rests its attention on."""

import pytest
import torch
from helpers import pad, random_texts, tiny_shared

from sharedllm import SharedLLMForCausalLM


def anchored(family: str, **settings) -> tuple[SharedLLMForCausalLM, SharedLLMForCausalLM]:
    """A model with an anchor, and the same weights without one."""
    models = tuple(tiny_shared(family, injection="joint", anchor=anchor, **settings) for anchor in (True, False))
    return models[0], models[1]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_only_the_first_real_token_sees_no_memory(family):
    """Whatever the padding before it."""
    model, plain = anchored(family)
    ids, mask = pad(random_texts([9, 5, 1]))
    memory = model.read(*pad(random_texts([40, 17, 33], 1), "right"))
    given = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        alone, with_anchor = model(**given).logits, model(**given, memory=memory).logits
        without = plain(**given, memory=memory).logits
    for row, length in enumerate([9, 5, 1]):
        first = ids.shape[1] - length
        torch.testing.assert_close(with_anchor[row, first], alone[row, first])
        assert (without[row, first] - alone[row, first]).abs().max() > 1e-3
        if length > 1:
            assert (with_anchor[row, first + 1 :] - alone[row, first + 1 :]).abs().max() > 1e-3


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_token_by_token_is_the_same_as_at_once(implementation):
    """One text read by two rows, without an attention mask; so is the text in one piece through few-query kernels."""
    model, _ = anchored("llama")
    model.set_attn_implementation(implementation)
    memory, ids = model.read(*pad(random_texts([300], 1), "right"), strides=[1]), torch.tensor(random_texts([6, 6]))
    with torch.no_grad():
        whole = model(input_ids=ids, memory=memory).logits
        # With gradients, through the kernels for training.
        with torch.enable_grad():
            torch.testing.assert_close(model(input_ids=ids, memory=memory).logits.detach(), whole)
        cache, steps = None, []
        for column in range(6):
            out = model(input_ids=ids[:, column : column + 1], past_key_values=cache, memory=memory, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generates_what_repeated_forward_passes_choose(cache):
    model, _ = anchored("qwen2")
    memory, (ids, mask) = model.read(*pad(random_texts([70, 20], 1), "right")), pad(random_texts([7, 4]))
    asked = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    generated = model.generate(ids, memory=memory, cache_implementation=cache, **asked)
    for length in range(ids.shape[1], ids.shape[1] + 5):
        seen = torch.cat([mask, mask.new_ones(2, length - ids.shape[1])], 1)
        with torch.no_grad():
            logits = model(input_ids=generated[:, :length], attention_mask=seen, memory=memory).logits
        assert torch.equal(logits[:, -1].argmax(-1), generated[:, length])
