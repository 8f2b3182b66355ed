"""A real checkpoint compared with its extension: SHAREDLLM_REAL_MODEL names its folder."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharedllm import SharedLLMForCausalLM
from sharedllm.diagnosis.meaning import measure_meaning
from sharedllm.diagnosis.posed import pose_reworded
from sharedllm.model.families import Rotations
from sharedllm.model.rope import rotate
from sharedllm.utils.prose import library_prose

FOLDER = os.environ.get("SHAREDLLM_REAL_MODEL")
pytestmark = [pytest.mark.real, pytest.mark.skipif(FOLDER is None, reason="SHAREDLLM_REAL_MODEL names no folder")]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def base(request):
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=request.param).eval()


@torch.no_grad()
def test_the_lower_model_is_the_base_over_a_chunk(base):
    """Keys and values of layers 2 … 8 equal the base's cache; without a memory nothing changes."""
    ids = torch.arange(1000, 1400)[None] * 7 % base.config.vocab_size
    settings = {"injection": "joint", "encoding": "chunk", "chunk_size": 400, "window": 512, "lower_layers": 9}
    model = SharedLLMForCausalLM.from_base(base, strides=[1], **settings).eval()
    output = base(ids, use_cache=True)
    assert torch.equal(model(ids).logits, output.logits)
    memory, lower = model.read(ids), model.model.lower()
    by = Rotations(lower.rotary, base.config, torch.arange(400)[None], memory.keys[0])
    most = 1e-4 if base.dtype == torch.float32 else 0.03
    for index in range(2, 9):
        cached, attention = output.past_key_values.layers[index], getattr(lower.layers[index], lower.family.attention)
        keys, kept = rotate(memory.keys[index], by.keys(index, attention)), cached.keys.shape[2]
        assert far(keys[:, :, -kept:], cached.keys) < most
        assert far(memory.values[index][:, :, -kept:], cached.values) < most


def test_meaning_finds_what_words_can_not():
    """A third of the layers know rewordings of facts well enough: far more of them than chance, and than the first layer."""
    base = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16).eval()
    tokenizer, layers = AutoTokenizer.from_pretrained(FOLDER), base.config.num_hidden_layers
    settings = {"injection": "deep", "encoding": "chunk", "window": 2048, "lower_layers": 1}
    model = SharedLLMForCausalLM.from_base(base, **settings).eval()
    meaning = measure_meaning(
        model, tokenizer, pose_reworded(2048, tokenizer, library_prose(40_000)), range(1, layers // 3 + 1)
    )
    depth = meaning.choose()
    assert depth is not None and depth > 1
    assert meaning.found[depth] > max(0.4, meaning.found[1] + 0.1)


def far(got, expected) -> float:
    """The difference as a share of the expected value."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())
