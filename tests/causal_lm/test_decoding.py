"""Rows that are continued together get the tokens that `generate` gives each of rows alone."""

import copy

import pytest
import torch
from combined import rarely
from helpers import random_texts, tiny_base, tiny_shared
from torch import Tensor
from transformers import LogitsProcessor

from sharedllm.decoding import Batch, Group
from sharedllm.rows import Begun, Read, Row


class Said:
    """Collects a row's tokens; ends it at some number of rows."""

    def __init__(self, most: int | None = None, fails: int | None = None):
        self.tokens, self.most, self.fails, self.done = [], most, fails, False

    def took(self, token: int) -> bool:
        self.tokens.append(token)
        if len(self.tokens) == self.fails:
            raise RuntimeError("the listener fails")
        return len(self.tokens) == self.most

    def ended(self) -> None:
        assert not self.done
        self.done = True


class Plus(LogitsProcessor):
    def __init__(self, token: int, by: float):
        self.token, self.by = token, by

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.token] += self.by
        return scores


def run(batch: Batch, rows: list[Row]) -> list[Row]:
    """Rows join one after the other, with a step in between, as far as there is room."""
    waiting, ended = list(rows), []
    while waiting or batch.rows:
        if waiting and batch.room:
            batch.add(waiting[0])
            ended += [waiting[0]] if waiting[0].ended else []
            del waiting[0]
        ended += batch.step()
    return ended


def written(model, ids: Tensor, memory, new: int, seed: int = 0, processors=(), **options) -> list[int]:
    torch.manual_seed(seed)
    out = model.generate(ids, memory=memory, max_new_tokens=new, logits_processor=list(processors), **options)
    return out[0, ids.shape[1] :].tolist()


OF_DEEP = {"encoding": "chunk", "prefix": [3, 1, 4], "window": 128}


def of_kind(injection: str, family: str = "qwen2", **settings):
    deep = OF_DEEP if injection == "deep" else {}
    return tiny_shared(family, injection=injection, **deep | settings)


class Kept(LogitsProcessor):
    """Notes the scores, and has the token taken that follows from their number alone."""

    def __init__(self, seen: list[Tensor]):
        self.seen = seen

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores[0].clone())
        forced = torch.full_like(scores, -1e4)
        forced[:, 7 * len(self.seen) % 97 + 1] = 0
        return forced


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9}
GREEDY = {"do_sample": False, "repetition_penalty": 1.2}


@pytest.mark.parametrize("injection", ["cross", "joint", "deep"])
def test_rows_get_what_generate_gives(injection):
    """Prompts and memories of different lengths, none, and one of two rows; different ways to choose tokens."""
    model = of_kind(injection)
    prompts = [torch.tensor([ids]) for ids in random_texts([9, 20, 4, 31, 1, 12])]
    contexts = [torch.tensor([ids]) for ids in random_texts([40, 3, 17, 60], 1)]
    memories = [model.read(ids, keep_all=injection == "deep") for ids in contexts]
    given = [memories[0], None, memories[1], memories[2], memories[3], memories[0]]
    options = [GREEDY, SAMPLED, GREEDY, {"do_sample": True, "top_k": 0}, SAMPLED, GREEDY]
    lengths = [8, 5, 12, 1, 10, 7]
    own = [[], [Plus(5, 2.0)], [], [Plus(7, 1.0)], [], [Plus(3, 30.0)]]
    arguments = list(zip(prompts, given, lengths, range(6), own, options, strict=True))
    expected = [written(model, *a[:5], **a[5]) for a in arguments]
    said = [Said() for _ in arguments]
    rows = [Row(Begun(model, a[0], a[1], a[2], **a[5]), s, a[4], a[3]) for a, s in zip(arguments, said, strict=True)]
    assert set(run(Batch(4), rows)) == set(rows)
    assert [s.tokens for s in said] == expected
    assert all(s.done and row.error is None for s, row in zip(said, rows, strict=True))
    assert len({tuple(tokens[:7]) for tokens in expected}) > 4, "the answers must differ"


@pytest.mark.parametrize(
    "family",
    ["llama", "gemma3_text", "gpt_oss", "cohere2", *rarely("mistral", "gemma2", "phi3", "qwen3_moe")],
)
def test_every_kind_of_layer(family):
    """Sliding windows shorter than the text, capped scores, sinks, experts; frequencies that go by the length."""
    model = of_kind("joint", family, window=128)
    prompts = [torch.tensor([ids]) for ids in random_texts([9, 70, 30])]
    memory = model.read(torch.tensor(random_texts([40], 1)))
    expected = [written(model, ids, memory, 6, do_sample=False) for ids in prompts]
    said = [Said() for _ in prompts]
    run(Batch(), [Row(Begun(model, ids, memory, 6, do_sample=False), s) for ids, s in zip(prompts, said, strict=True)])
    assert [s.tokens for s in said] == expected


@pytest.mark.parametrize("injection", [*rarely("cross"), "joint"])
def test_rows_that_outgrow_the_window_are_folded(injection):
    """Each folds when its own text is too long, and reads on beside the others; so does a prompt that is too long."""
    model = of_kind(injection, window=32, chunk_size=8)
    prompts = [torch.tensor([ids]) for ids in random_texts([9, 20, 90, 25])]
    news = [44, 20, 30, 10]
    expected = [written(model, ids, None, new, **GREEDY) for ids, new in zip(prompts, news, strict=True)]
    said = [Said() for _ in prompts]
    rows = [Row(Begun(model, ids, None, new, **GREEDY), s) for ids, new, s in zip(prompts, news, said, strict=True)]
    run(Batch(), rows)
    assert [s.tokens for s in said] == expected and [row.error for row in rows] == [None] * 4


def test_frequencies_that_change_with_the_length(monkeypatch):
    """Longrope: each row crosses the border at its own length, and is read again there."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 9.0, 30.0, 60.0]}
    base = tiny_base("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    model = tiny_shared("phi3", base=base, window=64)
    prompts = [torch.tensor(random_texts([length], seed)) for seed, length in ((2, 24), (3, 22), (4, 33))]
    expected = [written(model, ids, None, 30, do_sample=False) for ids in prompts]
    read, own = [], Read.of.__func__

    def of(cls, model, ids, memory):
        read.append(ids.shape[1])
        return own(cls, model, ids, memory)

    monkeypatch.setattr(Read, "of", classmethod(of))
    said = [Said() for _ in prompts]
    run(Batch(), [Row(Begun(model, ids, None, 30, do_sample=False), s) for ids, s in zip(prompts, said, strict=True)])
    assert [s.tokens for s in said] == expected
    assert sorted(read) == [22, 24, 33, 33, 33], "once more at the border"


def test_rows_of_one_prompt():
    """Several answers start from one reading; each has its own random numbers."""
    model = of_kind("joint")
    ids, memory = torch.tensor(random_texts([9])), model.read(torch.tensor(random_texts([40], 1)))
    expected = [written(model, ids, memory, 10, seed, **SAMPLED) for seed in range(5)]
    begun, said = Begun(model, ids, memory, 10, **SAMPLED), [Said() for _ in range(5)]
    run(Batch(3), [Row(begun, s, seed=seed) for seed, s in enumerate(said)])
    assert [s.tokens for s in said] == expected and len(set(map(tuple, expected))) == 5


def test_a_row_that_fails_or_is_removed_changes_no_other():
    model = of_kind("joint")
    prompts = [torch.tensor([ids]) for ids in random_texts([9, 20, 4, 15])]
    memories = [model.read(torch.tensor([ids])) for ids in random_texts([40, 3, 17, 60], 1)]
    expected = [written(model, ids, memory, 12, **GREEDY) for ids, memory in zip(prompts, memories, strict=True)]
    said = [Said(), Said(fails=4), Said(), Said(most=6)]
    batch = Batch()
    rows = [
        Row(Begun(model, ids, memory, 12, **GREEDY), s) for ids, memory, s in zip(prompts, memories, said, strict=True)
    ]
    for row in rows:
        batch.add(row)
    assert batch.room == 4 and [len(s.tokens) for s in said] == [1] * 4
    assert batch.step() == batch.step() == [] and batch.step() == [rows[1]]
    assert isinstance(rows[1].error, RuntimeError) and not said[1].done
    batch.remove([rows[2]])
    assert set(batch.rows) == {rows[0], rows[3]}
    assert run(batch, []) == [rows[3], rows[0]]
    for s, tokens, length in zip(said, expected, [12, 4, 4, 6], strict=True):
        assert s.tokens == tokens[:length]


def test_a_step_that_fails_fails_its_rows_alone(monkeypatch):
    model = of_kind("joint")
    batch, said = Batch(), [Said() for _ in range(3)]
    rows = [Row(Begun(model, torch.tensor(random_texts([9])), None, 12, do_sample=False), s) for s in said]
    for row in rows[:2]:
        batch.add(row)

    def fails(group):
        raise MemoryError("used up")

    with monkeypatch.context() as patch:
        patch.setattr(Group, "step", fails)
        assert batch.step() == rows[:2] and all(isinstance(row.error, MemoryError) for row in rows[:2])
    batch.add(rows[2])
    run(batch, [])
    assert rows[2].error is None and len(said[2].tokens) == 12


def test_padding_is_limited(monkeypatch):
    """A row far longer than the others is run by itself; rows over the same memory share it without a copy."""
    model = of_kind("cross")
    memories = [model.model.prepare_memory(model.read(torch.tensor([ids]))) for ids in random_texts([400, 3], 1)]
    prompt = torch.tensor(random_texts([9]))
    rows = [Row(Begun(model, prompt, m, 12, do_sample=False), Said()) for m in (*memories, memories[0], None)]
    batch = Batch()
    monkeypatch.setattr(batch, "_weights", 1)
    for row in rows:
        batch.add(row)
    groups = [group.rows for group in batch._groups]
    assert groups == [[rows[0], rows[2]], [rows[1]], [rows[3]]]
    shared = batch._groups[0]._memory
    assert all(shared.layers[i][0] is span[0] for i, span in memories[0].layers.items()) and len(shared) == 2
    batch.remove(rows)
    monkeypatch.setattr(batch, "_weights", 2**30)
    for row in rows:
        row.ended = False
        batch.add(row)
    assert [group.rows for group in batch._groups] == [rows]


def test_memories_in_8_bits():
    """They are shared, or run apart."""
    model = of_kind("cross", memory_dtype="int8")
    with torch.no_grad():
        memories = [model.model.prepare_memory(model.read(torch.tensor([ids]))) for ids in random_texts([40, 30], 1)]
    prompts = [torch.tensor([ids]) for ids in random_texts([9, 20, 4])]
    given = [memories[0], memories[1], memories[0]]
    expected = [written(model, ids, memory, 8, do_sample=False) for ids, memory in zip(prompts, given, strict=True)]
    said = [Said() for _ in prompts]
    batch = Batch()
    for ids, memory, s in zip(prompts, given, said, strict=True):
        batch.add(Row(Begun(model, ids, memory, 8, do_sample=False), s))
    assert sorted(len(group.rows) for group in batch._groups) == [1, 2]
    run(batch, [])
    assert [s.tokens for s in said] == expected


@pytest.mark.parametrize("injection", [*rarely("joint", "cross"), "deep"])
def test_in_bf16_rows_are_as_close_as_rounding_allows(injection):
    """Sums of a batch are rounded in another order. Given the same tokens, the logits of a row among others differ from
    those of the row alone by no more than bf16 differs from float32, and the likeliest token is the same unless two are as
    close as that."""
    base = tiny_base("qwen2", initializer_range=0.08)
    exact = tiny_shared("qwen2", base=base, injection=injection, **OF_DEEP if injection == "deep" else {})
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    prompts = [torch.tensor([ids]) for ids in random_texts([9, 20, 4, 31])]
    contexts = [torch.tensor([ids]) for ids in random_texts([40, 3, 17, 60], 1)]

    def logits(model, together: bool) -> Tensor:
        """(4, 8, V) of each row after tokens that are the same for all."""
        memories = [model.read(ids, keep_all=injection == "deep") for ids in contexts]
        seen = [[] for _ in prompts]

        def row(i: int) -> Row:
            return Row(Begun(model, prompts[i], memories[i], 8, do_sample=False), Said(), [Kept(seen[i])])

        if together:
            run(Batch(), [row(i) for i in range(4)])
        else:
            for i in range(4):
                run(Batch(), [row(i)])
        return torch.stack([torch.stack(each) for each in seen])

    alone, batched, expected = logits(rounded, False), logits(rounded, True), logits(exact, False)
    rounding = (alone - expected).abs().max()
    assert 0 < rounding < 1 and (batched - alone).abs().max() <= 1.5 * rounding
    differ = batched.argmax(-1) != alone.argmax(-1)
    best = alone.topk(2, -1).values
    assert ((best[..., 0] - best[..., 1])[differ] <= 2 * rounding).all() and differ.float().mean() < 0.25


def test_wrong_numbers():
    model = of_kind("joint")
    with pytest.raises(ValueError, match="batch"):
        Batch(0)
    with pytest.raises(ValueError, match="max_new_tokens"):
        Begun(model, torch.tensor([[1]]), None, 0)
    with pytest.raises(ValueError, match=r"num_beams=3: rows are continued one token at a time, without beams"):
        Begun(model, torch.tensor([[1]]), None, 1, num_beams=3)
    model.generation_config.num_beams = 2
    with pytest.raises(ValueError, match=r"num_beams=2: "):
        Begun(model, torch.tensor([[1]]), None, 1)
    assert Begun(model, torch.tensor([[1]]), None, 1, num_beams=1).new_tokens == 1
    model.generation_config.num_beams = None
    with pytest.raises(ValueError, match="vocabulary"):
        Begun(model, torch.tensor([[10**6]]), None, 1)
