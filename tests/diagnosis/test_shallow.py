"""The measurement of depth and heads: its questions are checkable, and it prefers heads that find more."""

import random

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.diagnosis.shallow import Asked, Depth, Shallow, _best_of, measure_shallow, reciprocal
from sharedllm.utils.errors import UserError


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
    first, again = (measure_shallow(model, byte_tokenizer(), text, questions=6) for _ in range(2))
    assert first == again
    assert [depth.layers for depth in first.depths] == [1, 2] and first.words > 0.2 and first.questions >= 6
    with pytest.raises(UserError, match="sentences to ask about"):
        measure_shallow(model, byte_tokenizer(), "Too short.", questions=6)
