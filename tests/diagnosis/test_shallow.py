"""The measurement of depth and heads: its questions are checkable, and it prefers heads that find more."""

import random

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.diagnosis.posed import Asked, _cut, pose
from sharedllm.diagnosis.shallow import Depth, Shallow, _best_of, measure_shallow, reciprocal
from sharedllm.memory.segments import segments_of
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize


def test_the_right_piece_counts_by_its_rank():
    scores = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.3, 0.3]])
    assert reciprocal(scores, 1).tolist() == pytest.approx([1.0, 1 / 3])
    assert reciprocal(scores, 0).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_heads_that_find_together_are_chosen():
    """One of three heads finds odd pieces, one even pieces, and one nothing: the first two are chosen, within the
    allowed layers."""
    every = [[0, 0, 1.0], [1, 0, 1.0], [1, 1, 1.0]]
    rng, asked, paid = random.Random(0), [], []
    for _ in range(40):
        piece = rng.randrange(8)
        weights = torch.rand(3, 8, generator=torch.Generator().manual_seed(len(paid))) * 0.1
        weights[1 if piece % 2 else 2, piece] = 1.0
        asked.append(Asked("?", piece))
        paid.append(weights)
    deep, shallow = _best_of(1, every, paid, asked), _best_of(0, every, paid, asked)
    assert [head[:2] for head in deep.heads[-2:]] == [[1, 0], [1, 1]] and deep.found == 1.0
    assert shallow.heads == [[0, 0, 1.0]] and shallow.found < 0.6


def test_the_shallowest_that_finds_enough():
    depths = [Depth(1, [], 0.3), Depth(2, [], 0.72), Depth(3, [], 0.8)]
    shallow = Shallow(depths, 0.9, 10, 10, 100)
    assert (shallow.choose(0.85).layers, shallow.choose(0.95).layers, shallow.choose(1.0).layers) == (2, 3, 3)


def test_measured_twice_alike_and_texts_that_are_too_short():
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    settings = {"injection": "deep", "encoding": "chunk", "lower_layers": 2, "window": 256, "chunk_size": 64}
    model = tiny_shared("llama", base=base, injection_map=[[i, i] for i in range(3)], **settings)
    text = "\n\n".join(
        f"Paragraph {i} speaks of gardens, windows, letters, rivers, apples and horses." for i in range(40)
    )
    posed, read = pose(model.config, byte_tokenizer(), text, questions=6), []
    first, again = (measure_shallow(model, byte_tokenizer(), posed, read.append) for _ in range(2))
    assert first == again and sum(read) == 2 * (posed.tokens + len(posed.asked))
    assert [depth.layers for depth in first.depths] == [1, 2] and first.words > 0.2 and first.questions >= 6


@pytest.mark.parametrize("marks", [{}, {"closing": [46], "pausing": [44]}], ids=["whole chunks", "pieces"])
def test_what_is_too_little_is_known_before_it_is_read(marks):
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    settings = {"injection": "deep", "encoding": "chunk", "lower_layers": 2, "window": 64, "chunk_size": 48} | marks
    model = tiny_shared("llama", base=base, injection_map=[[i, i] for i in range(3)], **settings)
    ids = tokenize(byte_tokenizer(), "Gardens, windows, letters. Rivers, apples and horses. " * 9)
    index = TextIndex(segments_of(model.read(ids, keep_all=True)), byte_tokenizer(), 64, marks=model.config.marks)
    early = _cut(model.config, byte_tokenizer(), ids[0])
    assert early.start.tolist() == index.units.start.tolist() and early.end.tolist() == index.units.end.tolist()
    with pytest.raises(UserError, match="sentences to ask about"):
        pose(model.config, byte_tokenizer(), "Too short. " * 900, questions=6)
