"""Blocks that are read by ranges of bytes: equal to the same blocks opened as files, and only what is needed is fetched."""

import pytest
import torch
from stores import build, words

from sharedllm.corpus.ranged import RangedBlock, _runs
from sharedllm.memory.segment import Stored
from sharedllm.store.blocks import BlockFile
from sharedllm.store.manifest import Block
from sharedllm.utils.errors import UserError


class Counting:
    def __init__(self, content: bytes):
        self.content, self.spans = content, []

    def __call__(self, spans):
        self.spans += spans
        return [self.content[start:end] for start, end in spans]


@pytest.fixture(params=["model", "int8"])
def pair(request, tmp_path, model):
    """A block as a file, and by ranges of an object in which other bytes come before it."""
    store = build(tmp_path / "a.memory", model, {"a": words(200)}, storage=request.param)
    block = store.documents[0].blocks[0]
    raw = (tmp_path / "a.memory" / "blocks" / f"{block.file}.memory").read_bytes()
    fetch = Counting(b"before" * 7 + raw)
    inside = Block(f"42+{len(raw)}", block.tokens, block.characters, block.sha256, block.lines)
    whole = BlockFile(tmp_path / "a.memory", block, store.manifest, verify=True)
    return whole, RangedBlock(inside, store.manifest, fetch, "shards/x.blocks"), fetch, inside, store.manifest


@pytest.mark.parametrize("columns", [None, [[0]], [[3, 4, 5, 90, 199]], [list(range(200))]])
def test_equal_to_the_file(pair, columns):
    whole, ranged, *_ = pair
    assert (ranged.form, ranged.nbytes, ranged.pairs) == (whole.form, whole.nbytes, whole.pairs)
    ours, theirs = ranged.segment(16, ()), whole.segment(16, ())
    assert torch.equal(ours.token_ids, theirs.token_ids) and torch.equal(ours.lengths, theirs.lengths)
    at = None if columns is None else torch.tensor(columns)
    for index in range(ranged.pairs):
        assert torch.equal(ours.keys(index, at), theirs.keys(index, at))
        assert torch.equal(ours.values(index, at), theirs.values(index, at))
    assert all(torch.equal(ranged.kept()[name], tensor) for name, tensor in whole.kept().items())


def test_embedded_sentences(tmp_path, model, monkeypatch):
    kept = Stored("its encoder", torch.randn(7, 4).half())
    monkeypatch.setattr("sharedllm.store.writer.embedded_sentences", lambda *_: kept)
    store = build(tmp_path / "a.memory", model, {"a": words(200)})
    block = store.documents[0].blocks[0]
    raw = (tmp_path / "a.memory" / "blocks" / f"{block.file}.memory").read_bytes()
    inside = Block(f"0+{len(raw)}", block.tokens, block.characters, block.sha256, block.lines)
    ranged = RangedBlock(inside, store.manifest, Counting(raw), "shards/x.blocks")
    for opened in (BlockFile(tmp_path / "a.memory", block, store.manifest, verify=True), ranged):
        embedded = opened.segment(0, ()).embedded
        assert embedded is not None and embedded().encoder == "its encoder"
        assert torch.equal(embedded().sentences, kept.sentences)


def test_only_what_is_needed_is_fetched(pair):
    _, ranged, fetch, *_ = pair
    fetch.spans.clear()
    ranged.segment(0, ()).keys(0, torch.tensor([[5, 6, 7]]))
    assert sum(end - start for start, end in fetch.spans) < len(fetch.content) / 50


@pytest.mark.parametrize(
    ("start", "new", "message"),
    [(0, b"\xff\xff\xff\xff", "length"), (9, b"\0\0\0", "can't be read"), (-1, b"", "not the block")],
)
def test_damage_is_named(pair, start, new, message):
    _, _, fetch, block, manifest = pair
    if start < 0:
        block = Block(block.file, block.tokens, block.characters, "0" * 64)
    fetch.content = fetch.content[: 42 + start] + new + fetch.content[42 + start + len(new) :]
    with pytest.raises(UserError, match=message):
        RangedBlock(block, manifest, fetch, "shards/x.blocks")


def test_runs():
    assert _runs([0, 1, 2, 5, 7, 8]) == [(0, 3), (5, 6), (7, 9)] and _runs([]) == []
