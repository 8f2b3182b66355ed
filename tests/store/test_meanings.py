"""What a question had read deeper is kept beside the memory: no other process reads it again, and nobody depends on it."""

import json
import os
from dataclasses import replace

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from safetensors.torch import load_file, save_file
from stores import TOKENIZER, build, build_on

from sharedllm.memory.segments import segments_of
from sharedllm.scoring import states
from sharedllm.scoring.meaning import MeaningIndex
from sharedllm.scoring.text_index import TextIndex, index_of
from sharedllm.store import MemoryStore
from sharedllm.store.meanings import meanings_bytes
from sharedllm.store.recover import recover
from sharedllm.store.writer import writing

QUESTION = "Which birds swam over there?"
TEXT = "The mill is old. Rain fell on the hills. Seven geese crossed the river. An owl slept in the tower. " * 3
CLOSING = sorted({byte_tokenizer().encode(c)[0] for c in ".!?"})


@pytest.fixture
def model(small_blocks, request):
    """Reads two layers, or as many as a test says, and compares meanings after three."""
    layers = getattr(request, "param", 2)
    settings = {"injection": "deep", "prefix": [5, 3, 9], "window": 256, "chunk_size": 64, "closing": CLOSING}
    base = tiny_base("qwen2", vocab_size=256, max_position_embeddings=256)
    map_of = [[layer, layer] for layer in range(layers)]
    return tiny_shared(
        "qwen2", base=base, lower_layers=layers, injection_map=map_of, encoding="chunk", meaning_layers=3, **settings
    )


@pytest.fixture
def memory(tmp_path, model):
    build(tmp_path / "a.memory", model, {"one": TEXT, "two": TEXT[40:160]})
    return tmp_path / "a.memory"


def compared(memory, model, progress=None, keep: bool = True) -> tuple[torch.Tensor, int]:
    """As a process does that opens a memory: the scores of its pieces, and how many tokens were read for them."""
    segments = segments_of(MemoryStore.open(memory))
    segments = segments if keep else [replace(segment, meanings=None) for segment in segments]
    index = TextIndex(segments, TOKENIZER, 256, marks=model.config.marks)
    scores, done = index.meaning(model.model, segments).scores(QUESTION, progress)
    return scores, int(done.read.sum())


# What a memory keeps is deeper than the layer that compares meanings, or not as deep: read anew, or on.
both = pytest.mark.parametrize("model", [2, 4], indirect=True)


def kept(memory):
    return sorted((memory / "meanings").glob("*.memory"))


@both
def test_another_process_reads_nothing_again(memory, model):
    scores, read = compared(memory, model)
    assert read == MemoryStore.open(memory).tokens
    assert [path.name for path in kept(memory)] == sorted(path.name for path in (memory / "blocks").iterdir())
    again, read = compared(memory, model)
    assert torch.equal(again, scores) and read == 0
    torch.testing.assert_close(compared(memory, model, keep=False)[0], scores, atol=0.05, rtol=0.0)
    build_on(memory, model, {"three": ["A lake. Many birds swam over it."]})
    scores, read = compared(memory, model)
    assert read == len("A lake. Many birds swam over it.")
    assert torch.equal(compared(memory, model)[0], scores)


@both
def test_what_was_read_before_an_interruption_is_kept(memory, model, monkeypatch):
    monkeypatch.setattr(states, "_BLOCK", 128)  # a block of the store at a time
    told = []

    def stop(tokens: int) -> None:
        told.append(tokens)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(memory, model, stop)
    tokens, already = MemoryStore.open(memory).tokens, sum(load_file(p)["states"].shape[1] for p in kept(memory))
    assert 0 < already < tokens
    assert compared(memory, model)[1] == tokens - already


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def deep(path) -> None:
    save_file(load_file(path), path, metadata={"sharedllm": "[" * 100_000})


def of_another_shape(path) -> None:
    tensors = load_file(path)
    tensors["states"] = tensors["states"][:, 1:].contiguous()
    save_file(tensors, path, metadata={"sharedllm": "{}"})


def of_another_block(path) -> None:
    other = next(p for p in kept(path.parents[1]) if p != path and p.stat().st_size == path.stat().st_size)
    path.write_bytes(other.read_bytes())


def no_object(path) -> None:
    save_file(load_file(path), path, metadata={"sharedllm": json.dumps([1])})


@pytest.mark.parametrize(
    "damage", [flip, deep, of_another_shape, of_another_block, no_object, lambda p: p.write_bytes(b"")]
)
def test_what_is_damaged_is_read_anew_and_replaced(memory, model, damage):
    scores, _ = compared(memory, model)
    whole = {path.name: path.read_bytes() for path in kept(memory)}
    damage(next(path for path in kept(memory) if load_file(path)["states"].shape[1] == 64))
    again, read = compared(memory, model)
    assert torch.equal(again, scores) and read == 64
    assert {path.name: path.read_bytes() for path in kept(memory)} == whole


@both
def test_of_a_text_that_is_narrowed_whole_blocks_are_kept_too(memory, model):
    def narrowed(most: int) -> tuple[torch.Tensor, int]:
        segments = segments_of(MemoryStore.open(memory))
        index = TextIndex(segments, TOKENIZER, 256, marks=model.config.marks)
        kept = states.KeptStates(model.model, segments, index.units)
        meant = MeaningIndex(model.model, TOKENIZER, index.ids, index.pieces, 3, kept, whole=1, most=most)
        scores, done = meant.scores(QUESTION)
        return scores, int(done.read.sum())

    scores, read = narrowed(most=350)
    kept_tokens = sum(load_file(path)["states"].shape[1] for path in kept(memory))
    assert 0 < kept_tokens <= read <= 350
    again, less = narrowed(most=350)
    assert torch.equal(again, scores) and less == read - kept_tokens


@both
def test_a_text_of_which_a_part_was_asked_in_the_same_process_is_kept_whole(memory, model, tmp_path):
    def asked(memory=memory) -> int:
        segments = segments_of(MemoryStore.open(memory))
        index = index_of(segments, TOKENIZER, 256, model.config.marks)
        return int(index.meaning(model.model, segments).scores(QUESTION)[1].read.sum())

    assert asked() == len(TEXT) + 120
    build_on(memory, model, {"two": [TEXT[40:160], "A lake. Many birds swam over it."]})
    assert 0 < asked() <= 120 + len("A lake. Many birds swam over it.")
    assert compared(memory, model)[1] == 0
    longer = tmp_path / "b.memory"
    build(longer, model, {"one": TEXT, "two": TEXT[40:]})
    assert asked(longer) == len(TEXT) + len(TEXT[40:])
    assert compared(longer, model)[1] == 0


@both
def test_merged_and_recovered_memories_take_it_along(memory, model, tmp_path):
    compared(memory, model)
    with writing(tmp_path / "b.memory") as writer:
        writer.merge(memory)
        writer.commit()
    assert compared(tmp_path / "b.memory", model)[1] == 0
    (memory / "manifest.json").unlink()
    recover(memory, tmp_path / "c.memory", TOKENIZER, "tok")
    assert compared(tmp_path / "c.memory", model)[1] == 0


def test_what_lies_there_is_in_nobodys_way(memory, model):
    compared(memory, model)
    meanings, name = memory / "meanings", "ab" * 16 + ".memory"
    (meanings / name).mkdir()
    (meanings / ("cd" * 16 + ".memory")).symlink_to("nowhere")
    whole = sum(path.stat().st_size for path in kept(memory) if path.is_file())
    assert meanings_bytes(memory) == whole > 0
    build_on(memory, model, {"three": ["A lake."]})
    assert (meanings / name).is_dir() and meanings_bytes(memory) == whole
    meanings.rename(memory / "elsewhere")
    meanings.symlink_to("elsewhere")
    assert meanings_bytes(memory) == 0


def test_other_weights_above_read_it_anew(memory, model):
    scores, _ = compared(memory, model)
    with torch.no_grad():
        model.model.upper.layers[2].mlp.down_proj.weight *= -1
    other, read = compared(memory, model)
    assert read == MemoryStore.open(memory).tokens and not torch.allclose(other, scores)
    assert compared(memory, model)[1] == 0


@both
def test_where_nothing_can_be_kept_the_question_is_asked_all_the_same(memory, model, tmp_path):
    (memory / "meanings").write_text("a file of somebody else's")
    read = [compared(memory, model)[1] for _ in range(2)]
    (memory / "meanings").unlink()
    (tmp_path / "elsewhere").mkdir()
    (memory / "meanings").symlink_to(tmp_path / "elsewhere")
    read += [compared(memory, model)[1] for _ in range(2)]
    assert read == [MemoryStore.open(memory).tokens] * 4 and not os.listdir(tmp_path / "elsewhere")


def test_what_is_kept_goes_with_its_block_and_nothing_else_does(memory, model):
    compared(memory, model)
    (memory / "meanings" / "notes.memory").write_text("a file of somebody else's")
    with writing(memory) as writer:
        writer.forget("two")
    left = {path.name for path in kept(memory)} - {"notes.memory"}
    assert left == {path.name for path in (memory / "blocks").iterdir()}
    assert (memory / "meanings" / "notes.memory").exists()
    assert compared(memory, model)[1] == 0
