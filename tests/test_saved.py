"""Files saved before names changed still open: `saved/` was written by the last commit with the old names.

A model whose configuration says `ratios`, memory files of format version 1, a store of such blocks.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from safetensors.torch import load_file, save_file

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM, open_memory, save_memory
from sharedllm.memory.file import VERSION
from sharedllm.memory.opening import read_header
from sharedllm.store import MemoryStore
from sharedllm.systems.cepe import CepeForCausalLM
from sharedllm.training.recipe_file import build_recipe, load_recipe, saved_keys, todays_names
from sharedllm.utils.errors import UserError

SAVED = Path(__file__).parent / "saved"
EXPECTED = load_file(SAVED / "expected.safetensors")
FINGERPRINTS = {"cross": "fc54b20dfb349b6320f62d23da6a5b1b", "joint": "52c8a4787d91fdeb7d7381dbac14e169"}


def before(name: str) -> str:
    """The old name of a parameter, given its current one."""
    return name.replace(".injection.projection.", ".cross_attention.reader.").replace(
        ".injection.", ".cross_attention."
    )


@pytest.mark.parametrize("injection", ["cross", "joint"])
def test_a_model(injection, tmp_path):
    model = SharedLLMForCausalLM.from_pretrained(SAVED / injection)
    assert model.config.strides == [4, 2] and not hasattr(model.config, "ratios")
    assert model.fingerprint() == FINGERPRINTS[injection]
    inputs = {"input_ids": EXPECTED["running"], "context_ids": EXPECTED["context"], "query_ids": EXPECTED["running"]}
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(logits, EXPECTED[injection], rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    assert '"ratios"' not in (tmp_path / "config.json").read_text()
    old, new = (set(load_file(folder / "model.safetensors")) for folder in (SAVED / injection, tmp_path))
    assert {before(name) for name in new} == old and len(old & new) < len(old)
    with torch.no_grad():
        assert torch.equal(SharedLLMForCausalLM.from_pretrained(tmp_path)(**inputs).logits, logits)


def test_weights_by_their_names_of_before():
    """With `load_state_dict`, and for CEPE with `from_pretrained`; an extra or missing name is still refused."""
    model = tiny_shared("llama", injection_map=[[0, 0], [1, 2]])
    weights = model.state_dict()
    other = tiny_shared("llama", seed=1, injection_map=[[0, 0], [1, 2]])
    assert not all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), weights.values(), strict=True))
    other.load_state_dict({before(name): tensor for name, tensor in weights.items()})
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, weights[name])
    lost = {before(name): tensor for name, tensor in weights.items() if not name.endswith("2.injection.gate")}
    with pytest.raises(RuntimeError, match=r"layers\.2\.injection\.gate"):
        other.load_state_dict(lost)
    with pytest.raises(RuntimeError, match=r"layers\.2\.injection\.nothing"):
        other.load_state_dict(weights | {"model.upper.layers.2.cross_attention.nothing": torch.zeros(1)})


def test_a_cepe(tmp_path):
    model = CepeForCausalLM.from_base(tiny_base("llama"), encoder={"hidden_size": 16, "intermediate_size": 24})
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    assert sum(".injection." in name for name in weights) > 0
    save_file({before(name): tensor for name, tensor in weights.items()}, path, {"format": "pt"})
    loaded, info = CepeForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_training(recipe, run, tmp_path):
    """A run whose last checkpoint has old names resumes like one with current names."""
    path = recipe()
    assert run("train", path, "--max-steps", 4)[0] == 0
    shutil.copytree(tmp_path / "run", tmp_path / "today")
    folder = tmp_path / "run" / "checkpoints" / "step-00000004"
    state = json.loads((folder / "state.json").read_text())
    renamed = 0
    for file in state["sha256"]:
        tensors = load_file(folder / file)
        renamed += sum(before(name) != name for name in tensors)
        save_file({before(name): tensor for name, tensor in tensors.items()}, folder / file)
        state["sha256"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    assert renamed > 0
    (folder / "state.json").write_text(json.dumps(state))
    assert run("train", path)[0] == 0
    gone_on = load_file(tmp_path / "run" / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "today").rename(tmp_path / "run")
    assert run("train", path)[0] == 0
    for name, tensor in load_file(tmp_path / "run" / "model" / "model.safetensors").items():
        assert torch.equal(gone_on[name], tensor)


def test_memories(tmp_path):
    memory = open_memory(SAVED / "notes.memory", fingerprint=FINGERPRINTS["joint"])
    assert read_header(SAVED / "notes.memory")["format_version"] == 1
    assert set(memory.stride[memory.mask].tolist()) == {2, 4}
    rounded = open_memory(SAVED / "notes-int8.memory")
    assert torch.equal(rounded.stride, memory.stride)
    with torch.no_grad():
        model = SharedLLMForCausalLM.from_pretrained(SAVED / "joint")
        logits = model(EXPECTED["running"], memory=memory).logits
    torch.testing.assert_close(logits, EXPECTED["over the memory"], rtol=1e-4, atol=1e-4)
    save_memory(memory, tmp_path / "new.memory")
    header = read_header(tmp_path / "new.memory")
    # Without embedded sentences it can be read by the version before, too.
    assert header["format_version"] == VERSION - 1 and "stride" in header["checksums"]
    assert torch.equal(open_memory(tmp_path / "new.memory").stride, memory.stride)


def test_a_damaged_memory_of_then(tmp_path):
    damaged = bytearray((SAVED / "notes.memory").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "notes.memory").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"is damaged: the checksum of \S+ does not match"):
        open_memory(tmp_path / "notes.memory")


def test_a_store():
    store = MemoryStore.open(SAVED / "store.memory", fingerprint=FINGERPRINTS["joint"], tokenizer="tok")
    assert not store.damaged
    text = "The falcon sang in a quiet harbour. " * 3
    assert byte_tokenizer().decode(store.segments[0].token_ids[0]) == text
    assert store.load().complete


def test_a_recipe():
    content = {
        "stage": "extend",
        "output": "out",
        "base": "tiny",
        "steps": 1,
        "data": {"folder": "data", "sources": {"a": {"files": "a.txt"}}},
        "train": {"everything": 1e-3},
        "model": {"ratios": [4, 2]},
        "schedule": [{"share": 1.0, "ratios": [[1, 1]]}],
        "validation": {"ratios": [2, 1]},
    }
    recipe = build_recipe(content)
    assert recipe.model == {"strides": [4, 2]}
    assert (recipe.schedule[0].strides, recipe.validation.strides) == ([[1, 1]], [2, 1])
    # Beacon's setting of that name is a different one.
    assert todays_names(content | {"system": "beacon"})["model"] == {"ratios": [4, 2]}
    # A run to resume may have been begun by a version that used the key `method`.
    for method, system in (("cepe", "cepe"), ("full", "tuned")):
        assert saved_keys(content | {"method": method})["system"] == system
    assert saved_keys(content)["model"] == {"strides": [4, 2]}


def test_a_recipe_that_says_method_is_told_the_key_of_today(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage: extend\nmethod: full\n")
    with pytest.raises(
        UserError, match=r"method is now called system: write system: with one of sharedllm, tuned, cepe, "
    ):
        load_recipe(path)


def test_settings(tmp_path, base_folder, run):
    text = SharedLLMForCausalLM.from_base(str(base_folder), ratios=[2, 1], chunk_size=16, lower_layers=1).config
    assert text.strides == [2, 1] and SharedLLMConfig(**text.to_dict()).strides == [2, 1]
    code, _, _ = run("extend", base_folder, "-o", tmp_path / "out", "--paper", "--ratios", "2,1", "--chunk-size", 16)
    assert code == 0 and SharedLLMConfig.from_pretrained(tmp_path / "out").strides == [2, 1]
    assert "--ratios" not in run("extend", "--help")[1]
