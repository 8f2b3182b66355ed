"""A memory that the same weights read in another dtype, on another machine perhaps: it is told from that of another model."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm import SharedLLMForCausalLM
from sharedllm.integrations.finder import Finder, open_own
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

TEXT = "The secret code of the falcon is 48213. " * 8


@pytest.fixture
def halved(small_folder):
    """The model in bf16, and in fp32 with the same weights."""
    half, full = (SharedLLMForCausalLM.from_pretrained(small_folder, dtype=torch.bfloat16).eval() for _ in range(2))
    return half, full.float()


def test_the_same_weights_have_each_others_fingerprint_by_dtype(halved):
    half, full = halved
    assert half.fingerprint() != full.fingerprint()
    assert half.fingerprint(dtype=torch.float32) == full.fingerprint()
    assert full.fingerprint(dtype=torch.bfloat16) == half.fingerprint()
    assert full.model.dtype_of(half.fingerprint()) == torch.bfloat16
    other = tiny_shared("llama", seed=3, base=tiny_base("llama", seed=3, vocab_size=256), encoding="chunk")
    assert full.model.dtype_of(other.fingerprint()) is None


def test_what_is_refused_says_how_to_load_the_model(halved):
    half, full = halved
    ids = tokenize(byte_tokenizer(), TEXT)
    memory = full.read(ids, keep_all=True)
    said = "the memory was read in float32, and this model is in bfloat16: load the model with dtype=torch.float32"
    with pytest.raises(UserError, match=said):
        half.select(memory, ids[:, :8], budget=64)


def test_commands_and_names_take_the_memorys_dtype(run, halved, small_folder, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    memory, question = tmp_path / "a.memory", "What is the secret code of the falcon?"
    with monkeypatch.context() as bf16:
        bf16.setattr("sharedllm.loading.inference_dtype", lambda _: torch.bfloat16)
        assert run("read", tmp_path / "a.txt", "-o", memory, "--model", small_folder, "--keep-all")[0] == 0
    asked = ["ask", memory, question, "--model", small_folder, "--max-new-tokens", 4]
    code, _, err = run(*asked)
    assert code == 0 and f"{memory} was read in bfloat16, so {small_folder} runs in it" in err
    (tmp_path / "a.txt").write_text(TEXT * 2)
    code, _, err = run("read", tmp_path / "a.txt", "-o", memory, "--model", small_folder, "--append")
    assert code == 0 and "was read in bfloat16" in err
    half, full = halved
    with pytest.raises(UserError, match=r"load the model with dtype=torch\.bfloat16"):
        open_own(full, byte_tokenizer(), memory)
    assert Finder(memory, str(small_folder), byte_tokenizer()).model.dtype == torch.bfloat16
    assert open_own(half, byte_tokenizer(), memory).tokens > 0
