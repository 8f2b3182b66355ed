"""ContextMemory: moving, selecting, cutting and joining do not change each text's entries."""

from dataclasses import replace

import pytest
import torch
from helpers import random_texts, tiny_shared
from hypothesis import given
from hypothesis import strategies as st
from memories import CHUNK, assert_padding_is_zero, assert_same, random_memory, texts

BATCHES = [[0], [1], [CHUNK], [0, 1, 7, 8, 9, 30]]
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=4)
SEEDS = st.integers(0, 99)


@pytest.mark.parametrize("lengths", BATCHES)
def test_sizes(lengths):
    memory = random_memory(lengths)
    assert len(memory) == len(lengths)
    assert memory.chunks.tolist() == [-(-n // CHUNK) for n in lengths]
    assert memory.kept.tolist() == [len(text["position"]) for text in texts(memory)]
    slots, layers = memory.mask.numel(), 2
    heads = 2 * layers * slots * 2 * 4 * 4  # keys and values, two heads of dimension 4 in float32
    assert memory.nbytes == heads + slots * (1 + 3 * 8) + memory.token_ids.numel() * 4 + len(lengths) * 8


def test_prints_its_shape():
    memory = random_memory([5, 9])
    shown = f"ContextMemory(texts=2, kept={memory.mask.shape[1]}, read=9, layers=2, bytes={memory.nbytes})"
    assert repr(memory) == shown and repr(memory.to("meta")) == shown


def test_sources_default_to_none_for_each_text():
    assert replace(random_memory([3, 4]), sources=()).sources == ((), ())


def test_to_casts_keys_and_values_only():
    memory = random_memory([5, 9])
    half = memory.to("cpu", torch.bfloat16)
    assert {t.dtype for t in half.keys + half.values} == {torch.bfloat16}
    for name in ("mask", "chunk", "position", "stride", "token_ids", "lengths"):
        assert torch.equal(getattr(half, name), getattr(memory, name))
        assert getattr(half, name).dtype == getattr(memory, name).dtype
    assert half.nbytes < memory.nbytes
    assert half.sources == memory.sources and half.fingerprint == memory.fingerprint
    assert_same(memory, memory.to("cpu"))
    assert {t.device.type for t in memory.to("meta").tensors().values()} == {"meta"}


def test_detach_keeps_values_and_drops_gradients():
    memory = random_memory([5])
    tracked = replace(memory, keys=tuple(t.clone().requires_grad_() * 1 for t in memory.keys))
    assert all(t.requires_grad for t in tracked.keys)
    assert not any(t.requires_grad for t in tracked.detach().keys)
    assert_same(memory, tracked.detach())


@pytest.mark.parametrize("index", [[2, 0], [1, 1, 1], [], [0, 1, 2]])
def test_index_select(index):
    memory = random_memory([4, 20, 0])
    for picked in (memory.index_select(index), memory.index_select(torch.tensor(index, dtype=torch.long))):
        assert texts(picked) == [texts(memory)[i] for i in index]
        assert picked.sources == tuple(memory.sources[i] for i in index)


@pytest.mark.parametrize("index", [[3], [-1], [0, 7]])
def test_index_select_refuses_texts_that_are_not_there(index):
    with pytest.raises(ValueError, match="outside the memory's 3 texts"):
        random_memory([4, 20, 0]).index_select(index)


def test_repeat_interleave():
    memory = random_memory([4, 20])
    assert_same(memory.repeat_interleave(1), memory)
    assert texts(memory.repeat_interleave(3)) == [text for text in texts(memory) for _ in range(3)]
    assert memory.repeat_interleave(2).sources == tuple(s for s in memory.sources for _ in range(2))


@given(lengths=LENGTHS, seed=SEEDS, data=st.data())
def test_slice_keeps_what_lies_inside(lengths, seed, data):
    memory = random_memory(lengths, seed)
    start = [data.draw(st.integers(0, n // CHUNK)) * CHUNK for n in lengths]
    stop = [data.draw(st.integers(a, n + 3)) for a, n in zip(start, lengths, strict=True)]
    part = memory.slice(torch.tensor(start), torch.tensor(stop))
    assert_padding_is_zero(part)
    assert part.lengths.tolist() == [min(b, n) - a for a, b, n in zip(start, stop, lengths, strict=True)]
    for whole, cut, a, b in zip(texts(memory), texts(part), start, stop, strict=True):
        inside = [i for i, p in enumerate(whole["position"]) if a <= p < b]
        assert cut["position"] == [whole["position"][i] - a for i in inside]
        assert cut["chunk"] == [whole["chunk"][i] - a // CHUNK for i in inside]
        assert cut["stride"] == [whole["stride"][i] for i in inside]
        assert cut["token_ids"] == whole["token_ids"][a:b]
        for name in ("keys.0", "keys.1", "values.0", "values.1"):
            assert cut[name] == [[head[i] for i in inside] for head in whole[name]]


def test_slice_takes_one_position_for_all_texts():
    memory = random_memory([20, 9])
    assert_same(memory.slice(8, 16), memory.slice(torch.tensor([8, 8]), torch.tensor([16, 16])))
    assert_same(memory.slice(0, 99), memory)


@pytest.mark.parametrize(("start", "stop"), [(1, 9), (-8, 8), (16, 8), (24, 30)])
def test_slice_refuses_what_is_no_part(start, stop):
    with pytest.raises(ValueError, match=r"start=.*multiples of chunk_size=8"):
        random_memory([20]).slice(start, stop)


@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=4), seed=SEEDS, data=st.data())
def test_append_undoes_slice(counts, seed, data):
    lengths = [n * CHUNK + data.draw(st.integers(0, CHUNK - 1)) for n in counts]
    memory = random_memory(lengths, seed)
    border = torch.tensor([data.draw(st.integers(0, n)) * CHUNK for n in counts])
    first, second = memory.slice(0, border), memory.slice(border, memory.lengths)
    joined = first.append(second)
    assert_padding_is_zero(joined)
    assert_same(replace(joined, sources=memory.sources), memory)


@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=4), seed=SEEDS, data=st.data())
def test_append_shifts_later_texts(counts, seed, data):
    first = random_memory([n * CHUNK for n in counts], seed)
    later = random_memory([data.draw(st.integers(0, 30)) for _ in counts], seed + 1)
    joined = first.append(later)
    assert_padding_is_zero(joined)
    assert joined.lengths.tolist() == (first.lengths + later.lengths).tolist()
    assert joined.sources == tuple(a + b for a, b in zip(first.sources, later.sources, strict=True))
    for both, ours, theirs, n in zip(texts(joined), texts(first), texts(later), counts, strict=True):
        assert both["chunk"] == ours["chunk"] + [c + n for c in theirs["chunk"]]
        assert both["position"] == ours["position"] + [p + n * CHUNK for p in theirs["position"]]
        assert both["stride"] == ours["stride"] + theirs["stride"]
        assert both["token_ids"] == ours["token_ids"] + theirs["token_ids"]
        for name in ("keys.0", "values.1"):
            assert both[name] == [a + b for a, b in zip(ours[name], theirs[name], strict=True)]


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (random_memory([8, 8]), "number of texts is 1 here and 2 there"),
        (replace(random_memory([8]), chunk_size=16), "chunk_size is 8 here and 16 there"),
        (random_memory([8], fingerprint="xyz"), "fingerprint is 'abc' here and 'xyz' there"),
        (random_memory([8], pairs=3), "number of injected layers is 2 here and 3 there"),
    ],
)
def test_append_refuses_another_kind_of_memory(later, message):
    with pytest.raises(ValueError, match=message):
        random_memory([16]).append(later)


@pytest.mark.parametrize("first", [None, "a"])
@pytest.mark.parametrize("second", [None, "b"])
@torch.no_grad()
def test_what_is_appended_without_a_name_is_not_of_the_named_text(first, second):
    model = tiny_shared("llama", injection="joint", encoding="chunk")
    for length in (32, 37):
        ids = torch.arange(2, 2 + length)[None]
        memory = model.read(ids, keep_all=True, sources=first and [first])
        grown = model.append(memory, ids[:, :20], sources=second and [second])
        known = ({"name": first or "the text", "tokens": length}, {"name": second or "the text", "tokens": 20})
        assert grown.sources == ((known,) if first or second else ((),))
        if length == 32:
            later = model.read(ids[:, :20], keep_all=True, sources=second and [second])
            assert memory.append(later).sources == grown.sources


def test_sources_may_lack_a_name_or_their_tokens():
    memory = replace(random_memory([30]), sources=(({"name": "a", "tokens": 10}, {"page": 3}),))
    assert memory.contents == [{"name": "a", "tokens": 10}, {"name": "the text", "tokens": 20, "page": 3}]
    assert replace(memory, sources=(({"name": "x"},),)).named == (({"name": "x", "tokens": 30},),)
    assert replace(memory, sources=((),)).contents == []


def test_append_refuses_an_unfinished_chunk():
    with pytest.raises(ValueError, match=r"lengths=\[16, 9\] end inside a chunk of 8"):
        random_memory([16, 9]).append(random_memory([3, 3]))


def test_a_memory_of_everything_is_one_segment():
    """Segments as in a store; a memory that holds only a part of the tokens has none."""
    model, ids = tiny_shared("llama", encoding="chunk"), torch.tensor(random_texts([40]))
    memory = model.read(ids, keep_all=True, sources=["a"])
    (segment,) = memory.segments
    assert torch.equal(segment.token_ids, memory.token_ids) and segment.end == 40
    assert segment.sources == (({"name": "a", "tokens": 40, "start": 0},),)
    some = torch.tensor([[3, 17]])
    for pair in range(segment.pairs):
        assert torch.equal(segment.keys(pair, some), memory.keys[pair][:, :, [3, 17]])
        assert torch.equal(segment.values(pair, None), memory.values[pair])
    with pytest.raises(ValueError, match="does not hold every token: read the text with keep_all=True"):
        _ = model.read(ids).segments
