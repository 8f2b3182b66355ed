"""Fingerprints: no setting is forgotten, and models keep theirs from version to version."""

import dataclasses
import json
import re
from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from sharedllm import SharedLLMConfig
from sharedllm.context import pieces
from sharedllm.memory.fingerprint import (
    BASE_DECIDING,
    BASE_INDIFFERENT,
    CUTTING,
    DECIDING,
    DECIDING_IF_SET,
    FAMILY_DECIDING,
    INDIFFERENT,
    Fingerprint,
    fingerprint_tensors,
)
from sharedllm.model.families import FAMILIES

COMMON = {field.name for field in dataclasses.fields(PreTrainedConfig)}


def test_every_setting_is_decided_about():
    """A new field of SharedLLMConfig belongs in DECIDING, CUTTING or INDIFFERENT."""
    own = {field.name for field in dataclasses.fields(SharedLLMConfig)} - COMMON
    deciding = {*DECIDING.values(), *DECIDING_IF_SET, *CUTTING}
    assert own == deciding | (INDIFFERENT & own)
    assert not deciding & INDIFFERENT and own | COMMON >= INDIFFERENT


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_a_family_is_decided_about(family):
    fields = set(AutoConfig.for_model(family).to_dict()) - set(PreTrainedConfig().to_dict())
    assert fields - {*BASE_DECIDING, *FAMILY_DECIDING} - BASE_INDIFFERENT == set()
    assert not BASE_INDIFFERENT & {*BASE_DECIDING, *FAMILY_DECIDING}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_is_hashed_as_it_is_saved(family):
    """Its fields are taken without the copy that `to_dict` makes."""
    config = AutoConfig.for_model(family)
    saved, held = config.to_dict(), vars(config)
    for name in {*BASE_DECIDING, *FAMILY_DECIDING} - {"model_type"}:
        assert (name in saved, json.dumps(saved.get(name))) == (name in held, json.dumps(held.get(name)))


def fingerprint(**changes) -> str:
    base = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2} | {
        name: changes.pop(name)
        for name in list(changes)
        if name not in {*DECIDING.values(), *DECIDING_IF_SET, *CUTTING, *INDIFFERENT}
    }
    settings = {"window": 32, "chunk_size": 16, "lower_layers": 2, "strides": [4, 2]} | changes
    config = SharedLLMConfig(text_config=LlamaConfig(vocab_size=97, **base), **settings)
    module = nn.Linear(2, 2, bias=False)
    module.weight.data = torch.arange(4.0).view(2, 2)
    return Fingerprint().of(config, config.text_config, {"lower.0": module})


def test_it_is_what_it_was():
    """As hashed by the first version, when `strides` was called `ratios`."""
    assert fingerprint() == "8c4116e182a21299ed1ebbd36726b162"


@pytest.mark.parametrize(
    "change",
    [
        {"strides": [4, 1]},
        {"chunk_size": 8},
        {"lower_layers": 3, "injection_map": [[0, 0], [1, 1]]},
        {"injection_map": [[0, 0], [1, 2]]},
        {"encoding": "chunk"},
        {"keep": "first"},
        {"encoding": "chunk", "overlap": 2},
        {"prefix": [3, 4]},
        {"rms_norm_eps": 1e-4},
        {"hidden_act": "gelu"},
        {"rope_theta": 5e5},
    ],
    ids=str,
)
def test_it_changes_with_what_decides(change):
    assert fingerprint(**change) != fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"window": 48},
        {"prefix": []},
        {"injection": "joint"},
        {"key_position": "offset"},
        {"score_scaling": "log"},
        {"selection": "cosine"},
        {"split_noise": 0.1},
        {"memory_dtype": "int8"},
        {"attention_dropout": 0.1},
    ],
    ids=str,
)
def test_it_stays_with_what_does_not(change):
    assert fingerprint(**change) == fingerprint()


def test_it_changes_with_the_rule_that_cuts_pieces(monkeypatch):
    cut = {"encoding": "chunk", "injection": "deep", "closing": [3]}
    before, whole = fingerprint(**cut), fingerprint()
    monkeypatch.setattr(pieces, "RULE", 2)
    assert fingerprint(**cut) != before and fingerprint() == whole


def test_it_changes_with_the_size_of_pieces():
    """Models of windows that hold pieces of the usual size open each other's memories, and those of before."""
    cut = {"encoding": "chunk", "injection": "deep", "closing": [3]}
    usual = fingerprint(**cut, window=768)
    assert usual == fingerprint(**cut, window=4096) == "0b60f06c08305db2a446b4d5ac95af4a"
    assert len({usual, fingerprint(**cut, window=256), fingerprint(**cut, window=128)}) == 3
    assert fingerprint(**cut, window=256) == fingerprint(**cut, window=257)


def test_a_change_that_gives_no_new_version_is_seen():
    base = LlamaConfig(vocab_size=97, num_hidden_layers=4, hidden_size=32, num_attention_heads=4)
    config = SharedLLMConfig(text_config=base, window=32, chunk_size=16, lower_layers=2, strides=[4, 2])
    module, known = nn.Linear(50, 50), Fingerprint()
    of = partial(known.of, config, config.text_config, {"lower.0": module})
    before = of()
    module.weight.data.mul_(2)
    after = of()
    assert after != before and after == of() == Fingerprint().of(config, config.text_config, {"lower.0": module})
    module.weight.data.div_(2)
    assert of() == before


def test_fingerprint_changes_with_everything():
    tensor = torch.arange(6.0).reshape(2, 3)
    settings = {"chunk_size": 8, "strides": [4, 2]}
    base = fingerprint_tensors([("a", tensor)], settings)
    assert re.fullmatch("[0-9a-f]{32}", base)
    assert base == fingerprint_tensors([("a", tensor.clone())], dict(reversed(settings.items())))
    assert base == fingerprint_tensors([("a", tensor.t().contiguous().t().requires_grad_())], settings)
    nudged = tensor.clone()
    nudged[1, 2] = torch.nextafter(nudged[1, 2], torch.tensor(9.0))
    others = [
        fingerprint_tensors([("b", tensor)], settings),
        fingerprint_tensors([("a", nudged)], settings),
        fingerprint_tensors([("a", tensor.reshape(3, 2))], settings),
        fingerprint_tensors([("a", tensor.view(torch.int32))], settings),
        fingerprint_tensors([("a", tensor.bfloat16())], settings),
        fingerprint_tensors([("a", tensor), ("a", tensor)], settings),
        fingerprint_tensors([], settings),
        fingerprint_tensors([("a", tensor)], settings | {"chunk_size": 9}),
        fingerprint_tensors([("a", tensor)], {"chunk_size": 8}),
        fingerprint_tensors([("scalar", tensor[0, 0]), ("empty", tensor[:0])], settings),
    ]
    assert len({base, *others}) == len(others) + 1
