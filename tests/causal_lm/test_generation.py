"""generate(): decoding step by step over a memory equals the whole forward pass, in every mode."""

import pytest
import torch
from combined import combined
from helpers import FAMILIES, pad, random_texts, tiny_base, tiny_shared
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from sharedllm import SharedLLMForCausalLM

GREEDY = {"do_sample": False}


def ids_of(*lengths: int, seed: int = 0) -> Tensor:
    return torch.tensor(random_texts(list(lengths), seed))


def forward(model: SharedLLMForCausalLM, ids: Tensor, **options) -> Tensor:
    with torch.no_grad():
        return model(ids, **options).logits


@pytest.mark.parametrize(("family", "injection"), combined(FAMILIES, ["cross", "joint"]))
def test_cached_decoding_equals_the_full_forward(family, injection):
    """Logits of every step, in a batch with left padding, over contexts of different lengths and none."""
    model, new = tiny_shared(family, injection=injection), 8
    ids, mask = pad(random_texts([9, 20, 4]))
    memory = model.read(*pad(random_texts([40, 3, 0], 1), "right"))
    out = model.generate(
        ids,
        attention_mask=mask,
        memory=memory,
        max_new_tokens=new,
        **GREEDY,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(out.sequences[:, :20], ids)
    full_mask = torch.cat([mask, torch.ones(3, new, dtype=mask.dtype)], 1)
    full = forward(model, out.sequences, attention_mask=full_mask, memory=memory)[:, 19:-1]
    torch.testing.assert_close(torch.stack(out.logits, 1), full, atol=1e-4, rtol=1e-4)
    assert torch.equal(full.argmax(-1), out.sequences[:, 20:])
    without = forward(model, out.sequences, attention_mask=full_mask)[:, 19:-1]
    assert not torch.allclose(full[0], without[0], atol=1e-2), "the memory must matter"


def test_batch_equals_single():
    model, prompts, contexts = tiny_shared("llama"), random_texts([9, 20, 4]), random_texts([40, 17, 5], 1)
    ids, mask = pad(prompts)
    context_ids, context_mask = pad(contexts, "right")
    batch = model.generate(
        ids,
        attention_mask=mask,
        context_ids=context_ids,
        context_attention_mask=context_mask,
        max_new_tokens=6,
        **GREEDY,
    )
    for row, prompt, context in zip(batch, prompts, contexts, strict=True):
        one = model.generate(torch.tensor([prompt]), context_ids=torch.tensor([context]), max_new_tokens=6, **GREEDY)
        assert torch.equal(row[20:], one[0, len(prompt) :])


@pytest.mark.parametrize("pieces", [[24], [10, 1, 1, 5, 7], [1] * 24], ids=str)
def test_running_text_in_pieces(pieces):
    """Through a cache, any number of tokens at a time, over a memory that is prepared once or every time."""
    model, ids = tiny_shared("qwen3"), ids_of(24, 24)
    memory = model.read(ids_of(50, 50, seed=1))
    expected = forward(model, ids, memory=memory)
    for given in (memory, model.model.prepare_memory(memory)):
        cache, logits = None, []
        for piece in ids.split(pieces, dim=1):
            with torch.no_grad():
                out = model(piece, memory=given, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits)
        torch.testing.assert_close(torch.cat(logits, 1), expected, atol=1e-4, rtol=1e-4)


def test_running_text_in_the_cache_counts_for_the_window():
    model = tiny_shared("llama")
    cache = model(ids_of(30), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="the running text has 33 tokens, the window=32"):
        model(ids_of(3), past_key_values=cache)


def test_context_equals_memory():
    model, ids, context = tiny_shared("llama"), ids_of(10, 10), ids_of(40, 40, seed=1)
    memory = model.read(context)
    asked = {"max_new_tokens": 6, **GREEDY}
    expected = model.generate(ids, context_ids=context, **asked)
    assert torch.equal(model.generate(ids, memory=memory, **asked), expected)
    assert torch.equal(model.generate(ids, memory=model.model.prepare_memory(memory), **asked), expected)
    assert torch.equal(model.generate(input_ids=ids, memory=memory, **asked), expected)
    assert not torch.equal(model.generate(ids, **asked), expected)


def test_beams():
    """Each beam reads the memory of its own text: scores are those of the whole forward pass."""
    model, new = tiny_shared("llama"), 5
    ids, mask = pad(random_texts([9, 6]))
    memory = model.read(*pad(random_texts([40, 17], 1), "right"))
    out = model.generate(
        ids,
        attention_mask=mask,
        memory=memory,
        max_new_tokens=new,
        **GREEDY,
        num_beams=3,
        num_return_sequences=2,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert out.sequences.shape == (4, 9 + new)
    assert torch.equal(out.sequences[:, :9], ids.repeat_interleave(2, 0))
    full_mask = torch.cat([mask.repeat_interleave(2, 0), torch.ones(4, new, dtype=mask.dtype)], 1)
    logits = forward(model, out.sequences, attention_mask=full_mask, memory=memory.repeat_interleave(2))
    chosen = logits[:, 8:-1].log_softmax(-1).gather(2, out.sequences[:, 9:, None])[..., 0]
    torch.testing.assert_close(chosen.sum(1) / new, out.sequences_scores, atol=1e-4, rtol=1e-4)
    assert out.sequences_scores[0] > out.sequences_scores[1] and out.sequences_scores[2] > out.sequences_scores[3]


def test_sampling_repeats_with_a_seed():
    model, ids = tiny_shared("llama"), ids_of(10)
    memory = model.read(ids_of(40, seed=1))

    def sampled(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(ids, memory=memory, max_new_tokens=8, do_sample=True, num_return_sequences=3)

    first, again, other = sampled(0), sampled(0), sampled(1)
    assert first.shape == (3, 18)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


class Collector(BaseStreamer):
    """Records the text that a TextStreamer would print."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value: Tensor) -> None:
        self.tokens.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("length", [10, 50])
def test_streamer(length):
    """The running part of the prompt at once, then token by token."""
    model, ids, streamer = tiny_shared("llama"), ids_of(length), Collector()
    out = model.generate(ids, max_new_tokens=6, streamer=streamer, **GREEDY)
    running = min(length, 32 - 6)
    assert streamer.ended
    assert streamer.tokens == [ids[0, -running:].tolist(), *([t] for t in out[0, length:].tolist())]


def test_end_of_text():
    """A row that has ended is padded, and generation stops when all have."""
    ids = ids_of(10, 10)
    model = tiny_shared("llama")
    free = model.generate(ids, max_new_tokens=6, **GREEDY)
    end = int(free[0, 12])
    out = model.generate(ids, max_new_tokens=6, eos_token_id=end, pad_token_id=0, **GREEDY)
    stop = free[0].tolist().index(end, 10)
    assert out[0, : stop + 1].tolist() == free[0, : stop + 1].tolist()
    assert (out[0, stop + 1 :] == 0).all()


# --- prompts longer than the window -----------------------------------------------------------------------------------


def test_long_prompt_splits_by_itself():
    model, long = tiny_shared("llama"), ids_of(70, 70)
    out = model.generate(long, max_new_tokens=6, **GREEDY)
    assert torch.equal(out[:, :70], long), "the output begins with the whole prompt"
    explicit = model.generate(long[:, -26:], context_ids=long[:, :-26], max_new_tokens=6, **GREEDY)
    assert torch.equal(out[:, 70:], explicit[:, 26:])


def test_ragged_long_prompts():
    model, prompts = tiny_shared("llama"), random_texts([70, 20, 27])
    ids, mask = pad(prompts)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=6, **GREEDY)
    for row, prompt in zip(out, prompts, strict=True):
        one = model.generate(torch.tensor([prompt]), max_new_tokens=6, **GREEDY)
        assert torch.equal(row[70:], one[0, len(prompt) :])


@pytest.mark.parametrize("given", ["memory", "context_ids"])
def test_overflow_goes_behind_what_was_read(given):
    model, long, context = tiny_shared("llama"), ids_of(70), ids_of(40, seed=1)
    out = model.generate(
        long, max_new_tokens=6, **GREEDY, **{given: model.read(context) if given == "memory" else context}
    )
    joined = torch.cat([context, long[:, :-26]], 1)
    expected = model.generate(long[:, -26:], context_ids=joined, max_new_tokens=6, **GREEDY)
    assert torch.equal(out[:, :70], long)
    assert torch.equal(out[:, 70:], expected[:, 26:])


def test_query_of_a_policy():
    """The end of the prompt is the query unless one is given."""
    model, ids, context = tiny_shared("llama", selection="cosine"), ids_of(10), ids_of(80, seed=1)
    asked = {"context_ids": context, "max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    own = model.generate(ids, **asked, **GREEDY).logits[0]
    same = model.generate(ids, **asked, **GREEDY, query_ids=ids).logits[0]
    memories = [model.read(context, query_ids=ids_of(5, seed=seed)) for seed in range(9)]
    other = next(
        i for i, m in enumerate(memories) if not torch.equal(m.position, model.read(context, None, ids).position)
    )
    different = model.generate(ids, **asked, **GREEDY, query_ids=ids_of(5, seed=other)).logits[0]
    assert torch.equal(own, same)
    assert not torch.allclose(own, different)


def test_lengths():
    """max_length counts the whole prompt, context or not; without either there are twenty new tokens."""
    model, long = tiny_shared("llama"), ids_of(50)
    assert model.generate(long, max_length=57, **GREEDY).shape == (1, 57)
    assert model.generate(long, **GREEDY).shape == (1, 70)


def test_base_without_context_generates_the_same():
    """Before training, generation equals the base's."""
    base, ids = tiny_base("llama"), ids_of(10, 10)
    expected = base.generate(ids, max_new_tokens=6, **GREEDY)
    model = SharedLLMForCausalLM.from_base(base, window=32, chunk_size=16, lower_layers=2)
    assert torch.equal(model.generate(ids, max_new_tokens=6, **GREEDY), expected)
    assert torch.equal(model.generate(ids, context_ids=ids_of(40, 40), max_new_tokens=6, **GREEDY), expected)


BAD_REQUESTS = {
    "none": ({"max_new_tokens": 0}, "max_new_tokens=0"),
    "max_length": ({"max_length": 10}, "max_length=10 leaves no room after a prompt of 10"),
    "both lengths": ({"max_new_tokens": 0, "max_length": 10}, "max_new_tokens=0 asks for nothing"),
    "no prompt": ({"inputs": None}, "input_ids is missing"),
    "both": ({"context_ids": ids_of(40, 40), "memory": "read"}, "both memory and context_ids"),
    "vocabulary": ({"inputs": ids_of(10, 10) + 101}, "input_ids holds id"),
    "mask": ({"attention_mask": torch.ones(2, 9)}, "mask of input_ids"),
    "batch": ({"inputs": ids_of(10), "memory": "read"}, "holds 2 texts, the batch 1"),
    "prepared": ({"inputs": ids_of(50, 50), "memory": "prepared"}, "pass the memory unprepared"),
}


@pytest.mark.parametrize(("request_", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_request(request_, message):
    model = tiny_shared("llama")
    request_ = {"inputs": ids_of(10, 10)} | request_
    if "memory" in request_:
        memory = model.read(ids_of(40, 40))
        request_["memory"] = memory if request_["memory"] == "read" else model.model.prepare_memory(memory)
    with pytest.raises(ValueError, match=message):
        model.generate(**request_)
