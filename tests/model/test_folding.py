"""Endless generation: text that outgrows the window is folded into the memory, and nothing else changes."""

from itertools import pairwise

import pytest
import torch
from combined import combined, rarely
from helpers import pad, random_texts, tiny_shared
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from sharedllm import SharedLLMForCausalLM
from sharedllm.model.folding import Folding, running_after_fold

GREEDY = {"do_sample": False}
WINDOW, CHUNK = 32, 16
NEW = 3 * CHUNK  # folded twice


def ids_of(*lengths: int, seed: int = 0) -> Tensor:
    return torch.tensor(random_texts(list(lengths), seed))


@torch.no_grad()
def slowly(model: SharedLLMForCausalLM, context: list[int], prompt: list[int], new: int, **options) -> list[int]:
    """The whole text, a token at a time: the folded text is read again in one go, the running text runs without a cache."""
    folded, running, memory, read = list(context), list(prompt), None, 0
    for _ in range(new):
        if len(running) > WINDOW:
            while len(running) - CHUNK >= WINDOW // 2:
                folded, running = folded + running[:CHUNK], running[CHUNK:]
        if len(folded) > read:
            memory, read = model.read(torch.tensor([folded]), **options), len(folded)
        logits = model(torch.tensor([running]), memory=memory, use_cache=False).logits
        running.append(int(logits[0, -1].argmax()))
    return folded[len(context) :] + running


@given(st.integers(1, 200), st.integers(1, 70), st.integers(2, 100))
def test_a_fold_makes_room_and_keeps_half(length, window, chunk_size):
    (stays,) = running_after_fold(torch.tensor([length]), window, chunk_size).tolist()
    if length <= window:
        assert stays == length
        return
    half = (window + 1) // 2
    assert half <= stays <= window
    if chunk_size <= window // 2:
        assert (length - stays) % chunk_size == 0 and stays < half + chunk_size
    else:
        assert stays == half


@pytest.mark.parametrize(
    ("lengths", "kind"),
    combined(
        [(48, 32), (0, 70), (37, 10), (0, 10)],
        [("cross", "node", 0), ("joint", "chunk", 8), ("joint", "chunk", 0)],
        fast=[(48, 32), (0, 70)].__contains__,
    ),
    ids=str,
)
def test_greedy_equals_the_slow_loop(lengths, kind):
    """With and without a memory, which may end inside a chunk, and prompts shorter and longer than the window."""
    injection, encoding, overlap = kind
    model = tiny_shared("llama", injection=injection, encoding=encoding, overlap=overlap)
    context, prompt = random_texts(list(lengths), 3)
    memory = model.read(torch.tensor([context])) if context else None
    new = 5 * WINDOW if lengths == (37, 10) else NEW
    out = model.generate(torch.tensor([prompt]), memory=memory, max_new_tokens=new, **GREEDY)
    assert out[0].tolist() == slowly(model, context, prompt, new)


@pytest.mark.parametrize("family", ["mistral", *rarely("qwen2", "qwen3")])
def test_families(family):
    model, prompt = tiny_shared(family), ids_of(10)
    out = model.generate(prompt, max_new_tokens=NEW, **GREEDY)
    assert out[0].tolist() == slowly(model, [], prompt[0].tolist(), NEW)


def test_a_memory_of_everything_goes_on_holding_everything(monkeypatch):
    model, context, prompt = tiny_shared("llama", injection="joint", encoding="chunk"), ids_of(40), ids_of(10, seed=1)
    steps = watch(monkeypatch)
    out = model.generate(prompt, memory=model.read(context, keep_all=True), max_new_tokens=NEW, **GREEDY)
    assert steps[-1].memory.complete
    assert out[0].tolist() == slowly(model, context[0].tolist(), prompt[0].tolist(), NEW, keep_all=True)


@pytest.mark.slow
def test_policies_with_a_query():
    """The query does not change: it is the end of the prompt, or the given one."""
    model, context, prompt = tiny_shared("llama", selection="cosine"), ids_of(48), ids_of(10, seed=1)
    out = model.generate(prompt, context_ids=context, max_new_tokens=NEW, **GREEDY)
    assert out[0].tolist() == slowly(model, context[0].tolist(), prompt[0].tolist(), NEW, query_ids=prompt)
    query = {"query_ids": ids_of(5, seed=2)}
    out = model.generate(prompt, context_ids=context, max_new_tokens=NEW, **GREEDY, **query)
    assert out[0].tolist() == slowly(model, context[0].tolist(), prompt[0].tolist(), NEW, **query)


def test_rows_of_a_batch_are_as_if_alone():
    """Rows outgrow the window at different steps, one has no memory, and one prompt is longer than the window."""
    model, prompts, contexts = tiny_shared("llama"), random_texts([9, 20, 4, 50]), random_texts([40, 17, 0, 5], 1)
    ids, mask = pad(prompts)
    memory = model.read(*pad(contexts, "right"))
    out = model.generate(ids, attention_mask=mask, memory=memory, max_new_tokens=NEW, **GREEDY)
    for row, prompt, context in zip(out, prompts, contexts, strict=True):
        assert row[50:].tolist() == slowly(model, context, prompt, NEW)[len(prompt) :]


def watch(monkeypatch) -> list[Folding]:
    """Records the state of folding after each step."""
    steps, add = [], Folding.add

    def watched(self, tokens):
        folded = add(self, tokens)
        steps.append(Folding(self.model, self.memory, self.ids, self.mask, self.query_ids))
        return folded

    monkeypatch.setattr(Folding, "add", watched)
    return steps


def test_no_token_is_lost(monkeypatch):
    model, prompts, contexts = tiny_shared("llama"), random_texts([9, 20, 50]), random_texts([40, 17, 0], 1)
    ids, mask = pad(prompts)
    steps = watch(monkeypatch)
    out = model.generate(
        ids, attention_mask=mask, memory=model.read(*pad(contexts, "right")), max_new_tokens=NEW, **GREEDY
    )
    assert len(steps) == NEW - 1
    for count, step in enumerate(steps, 1):
        assert step.ids.shape[1] <= WINDOW
        for row, (prompt, context) in enumerate(zip(prompts, contexts, strict=True)):
            memory = step.memory.token_ids[row, : step.memory.lengths[row]].tolist()
            assert (
                memory + step.ids[row][step.mask[row]].tolist() == context + prompt + out[row, 50 : 50 + count].tolist()
            )
    grown = [int(step.memory.lengths[0]) for step in steps]
    folds = [later - earlier for earlier, later in pairwise(grown) if later > earlier]
    assert folds and all(size % CHUNK == 0 for size in folds)


def test_chunks_longer_than_half_the_window(monkeypatch):
    model, prompt = tiny_shared("llama", chunk_size=64), ids_of(10)
    steps = watch(monkeypatch)
    out = model.generate(prompt, max_new_tokens=NEW, **GREEDY)
    assert min(step.ids.shape[1] for step in steps[WINDOW:]) == WINDOW // 2
    last = steps[-1]
    assert torch.equal(torch.cat([last.memory.token_ids, last.ids], 1), out[:, :-1])


@pytest.mark.slow
def test_sampling_and_several_answers():
    """Results depend on seeds, and each answer has its own memory."""
    model, ids = tiny_shared("llama"), ids_of(10, 10)
    memory = model.read(ids_of(40, 40, seed=1))
    asked = {"memory": memory, "max_new_tokens": NEW, "num_return_sequences": 3}

    def sampled(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(ids, do_sample=True, temperature=0.5, **asked)

    first = sampled(0)
    assert first.shape == (6, 10 + NEW)
    assert torch.equal(first, sampled(0)) and not torch.equal(first, sampled(1))
    assert len({tuple(row.tolist()) for row in first}) == 6
    # Sampling only the likeliest token is greedy decoding, for every copy.
    likeliest = model.generate(ids, do_sample=True, top_k=1, **asked)
    greedy = model.generate(ids, memory=memory, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(likeliest, greedy.repeat_interleave(3, 0))


class Collector(BaseStreamer):
    def __init__(self):
        self.tokens = []

    def put(self, value: Tensor) -> None:
        self.tokens.append(value.flatten().tolist())

    def end(self) -> None:
        self.tokens.append("end")


def test_streamer():
    model, ids, streamer = tiny_shared("llama"), ids_of(50), Collector()
    out = model.generate(ids, max_new_tokens=NEW, streamer=streamer, **GREEDY)
    # Two chunks of the prompt are folded at once: at least half the window is left.
    assert streamer.tokens == [ids[0, 32:].tolist(), *([t] for t in out[0, 50:].tolist()), "end"]


def test_outputs_of_each_step():
    model, ids = tiny_shared("llama"), ids_of(10, 10)
    out = model.generate(ids, max_new_tokens=NEW, **GREEDY, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(out.sequences[:, :10], ids)
    assert torch.equal(torch.stack(out.logits, 1).argmax(-1), out.sequences[:, 10:])
    assert out.past_key_values.get_seq_length() <= WINDOW


def test_without_a_cache():
    model, ids = tiny_shared("llama"), ids_of(10)
    asked = {"max_new_tokens": NEW, **GREEDY}
    assert torch.equal(model.generate(ids, use_cache=False, **asked), model.generate(ids, **asked))


def test_end_of_text_and_stopping_criteria():
    """Finished rows are padded while the others keep folding, and generation ends when all rows have ended."""
    model, ids = tiny_shared("llama"), ids_of(10, 10)
    free = model.generate(ids, max_new_tokens=NEW, **GREEDY)

    class Longest(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
            return torch.full((len(input_ids),), input_ids.shape[1] >= 50)

    assert torch.equal(model.generate(ids, max_new_tokens=NEW, stopping_criteria=[Longest()], **GREEDY), free[:, :50])
    end = int(free[0, 40])
    out = model.generate(ids, max_new_tokens=NEW, eos_token_id=end, pad_token_id=0, **GREEDY)
    ends = [row.index(end, 10) if end in row[10:] else len(row) - 1 for row in free.tolist()]
    assert out.shape[1] == max(ends) + 1
    for row, expected, stop in zip(out, free, ends, strict=True):
        assert row[: stop + 1].tolist() == expected[: stop + 1].tolist()
        assert not row[stop + 1 :].any()


def test_nothing_to_fold_is_as_ever(monkeypatch):
    """One token fewer than the window: only the prompt is split, and no folding happens."""
    model, ids, steps = tiny_shared("llama"), ids_of(20), watch(monkeypatch)
    out = model.generate(ids, max_new_tokens=WINDOW - 1, **GREEDY)
    explicit = model.generate(ids[:, -1:], context_ids=ids[:, :-1], max_new_tokens=WINDOW - 1, **GREEDY)
    assert torch.equal(out[:, 20:], explicit[:, 1:])
    assert steps == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_beams": 2},
            "max_new_tokens=32 does not fit into the window=32, .* beam_search: ask for fewer .* num_beams=1",
        ),
        ({"prompt_lookup_num_tokens": 3}, "no assistant"),
        ({"memory": "prepared"}, "pass the memory unprepared"),
    ],
)
def test_what_can_not_fold(options, message):
    model, ids = tiny_shared("llama"), ids_of(10)
    memory = model.read(ids_of(40))
    if options.get("memory") == "prepared":
        options = {"memory": model.model.prepare_memory(memory)}
    with pytest.raises(ValueError, match=message):
        model.generate(ids, **{"memory": memory, "max_new_tokens": WINDOW, **GREEDY} | options)
    asked = {"memory": memory, "max_new_tokens": 12, **GREEDY} | options
    assert model.generate(ids, **asked).shape == (1, 22), "without a fold it works"
