"""Residual streams are kept, moved, cut, joined, stored and selected like the rest of a memory."""

import pytest
import torch
from helpers import random_texts, tiny_shared
from memories import assert_same

from sharedllm.memory.file import save_memory
from sharedllm.memory.opening import open_file
from sharedllm.memory.segments import segments_of, take

SETTINGS = {"injection": "deep", "encoding": "chunk", "lower_layers": 2, "prefix": [4, 2], "window": 64}


@pytest.fixture(scope="module")
def model():
    return tiny_shared("qwen2", **SETTINGS)


def read(model, *lengths: int, seed: int = 0):
    (text,) = random_texts([sum(lengths)], seed)
    return text, model.read(torch.tensor([text]), keep_all=True)


def test_cut_and_joined_as_read_at_once(model):
    """Appending at any place and cutting at a chunk border give the streams of a single reading, up to rounding."""
    text, whole = read(model, 45)
    some = model.append(model.read(torch.tensor([text[:21]]), keep_all=True), torch.tensor([text[21:]]))
    torch.testing.assert_close(some.residuals[0], whole.residuals[0], rtol=1e-5, atol=1e-5)
    cut = whole.slice(16, 40)
    assert torch.equal(cut.residuals[0], whole.residuals[0][:, :, 16:40])


@pytest.mark.parametrize("storage", ["model", "int8"])
def test_a_file_holds_them(model, tmp_path, storage):
    _, whole = read(model, 45)
    save_memory(whole, tmp_path / "a.memory", storage=storage)
    opened = open_file(tmp_path / "a.memory")
    if storage == "model":
        assert_same(opened, whole)
    step = whole.residuals[0].abs().amax(-1, keepdim=True) / 127
    assert ((opened.residuals[0] - whole.residuals[0]).abs() <= step).all()


def test_what_is_taken_of_them(model):
    """Also across the border of two memories, each column from its own place."""
    (_, first), (_, second) = read(model, 32), read(model, 20, seed=1)
    slots = torch.tensor([3, 4, 31, 32, 50])
    chosen = take(segments_of([first, second]), [slots], [torch.ones_like(slots)])
    both = torch.cat([first.residuals[0], second.residuals[0]], 2)
    assert torch.equal(chosen.residuals[0], both[:, :, slots])
