"""A cache with spare capacity holds the same as transformers' after every operation, and writes tokens in place."""

import copy

import pytest
import torch
from helpers import random_texts, tiny_base, tiny_shared
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sharedllm.model import cache as cache_module
from sharedllm.model.cache import RoomyLayer, with_room


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    """Small, so that it runs out within a few tokens."""
    monkeypatch.setattr(cache_module, "ROOM", 4)


def states(seed: int, length: int, rows: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, length, 8, generator=generator), torch.randn(rows, 3, length, 8, generator=generator)


def reorder(layer: DynamicLayer) -> None:
    layer.reorder_cache(torch.tensor([1, 1]))


def keep_both(layer: DynamicLayer) -> None:
    layer.batch_select_indices(torch.tensor([1, 0]))


def crop(layer: DynamicLayer) -> None:
    layer.crop(-1)


def nothing(layer: DynamicLayer) -> None:
    pass


@pytest.mark.parametrize("between", [nothing, reorder, keep_both, crop, DynamicLayer.reset])
@torch.no_grad()
def test_equals_a_dynamic_layer(between):
    ours, theirs = RoomyLayer(), DynamicLayer()
    for seed, length in enumerate((5, 1, 1, 1, 3, 1, 1)):
        for got, expected in zip(*(x.update(*states(seed, length)) for x in (ours, theirs)), strict=True):
            assert torch.equal(got, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        for layer in (ours, theirs):
            between(layer)
    for layer in (ours, theirs):
        layer.batch_repeat_interleave(2)
    for got, expected in zip(*(x.update(*states(9, 2, rows=4)) for x in (ours, theirs)), strict=True):
        assert torch.equal(got, expected)


@torch.no_grad()
def test_tokens_are_written_where_there_is_room():
    layer = RoomyLayer()
    places = [layer.update(*states(i, length))[0].data_ptr() for i, length in enumerate((5, 1, 1, 1, 1))]
    # Capacity for 8, then for 12.
    assert places[0] == places[1] == places[2] == places[3] != places[4]


def test_a_copy_goes_its_own_way():
    """As when one prompt is continued in two ways."""
    with torch.no_grad():
        layer = RoomyLayer()
        layer.update(*states(0, 5))
        other = copy.deepcopy(layer)
        expected = layer.update(*states(1, 1))[0].clone()
        other.update(*states(2, 1))
        assert torch.equal(layer.keys, expected) and not torch.equal(other.keys, expected)


@torch.no_grad()
def test_room_that_is_known_is_made_once():
    """Tokens beyond the expected number have capacity too."""
    layer, places = RoomyLayer(room=11), set()
    for seed, length in enumerate((5, 1, 5)):
        places.add(layer.update(*states(seed, length))[0].data_ptr())
    assert len(places) == 1 and layer._rooms[0].shape[2] == 11
    layer.update(*states(3, 1))
    assert layer._rooms[0].shape[2] == 16
    expected = torch.cat([states(seed, length)[0] for seed, length in enumerate((5, 1, 5, 1))], 2)
    assert torch.equal(layer.keys, expected)


def test_gradients_flow_through_it():
    layer, (keys, values) = RoomyLayer(), states(0, 5)
    keys.requires_grad_()
    layer.update(keys, values)
    joined, _ = layer.update(*states(1, 1))
    joined.sum().backward()
    assert keys.grad is not None and bool((keys.grad == 1).all())


def test_which_caches_get_room():
    """Only plain and empty caches: not sliding, static or filled ones."""
    llama, mistral = tiny_base("llama").config, tiny_base("mistral", sliding_window=16).config
    assert {type(x) for x in with_room(None, llama).layers} == {RoomyLayer}
    assert {type(x) for x in with_room(None, mistral).layers} == {DynamicSlidingWindowLayer}
    lazy = with_room(DynamicCache(), llama)
    lazy.update(*states(0, 1), 0)
    assert {type(x) for x in lazy.layers} == {RoomyLayer}
    full = DynamicCache(config=llama)
    full.update(*states(0, 1), 0)
    for given in (full, StaticCache(config=llama, max_cache_len=8)):
        types = [type(x) for x in given.layers]
        assert [type(x) for x in with_room(given, llama).layers] == types


@pytest.mark.parametrize("injection", ["cross", "joint"])
def test_generation_makes_room(injection):
    """In `generate` and in forward passes; tokens equal those of transformers' cache."""
    model, ids = tiny_shared("llama", injection=injection), torch.tensor(random_texts([9, 9]))
    memory = model.read(torch.tensor(random_texts([40, 40], 1)))
    asked = {"memory": memory, "max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True}
    out = model.generate(ids, **asked)
    assert {type(x) for x in out.past_key_values.layers} == {RoomyLayer}
    assert {x._rooms[0].shape[2] for x in out.past_key_values.layers} == {9 + 12}
    plain, logits = DynamicCache(config=model.config.text_config), []
    for piece in out.sequences.split([9] + [1] * 12, 1):
        # With gradients there is no spare capacity.
        logits.append(model(piece, memory=memory, past_key_values=plain, use_cache=True).logits[:, -1])
    assert {type(x) for x in plain.layers} == {DynamicLayer}
    assert torch.equal(torch.stack(logits[:-1], 1).argmax(-1), out.sequences[:, 9:])
