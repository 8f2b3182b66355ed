"""Checkpoints that can't be loaded are users' mistakes, reported in one line; valid ones load."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM, SharedLLMModel
from sharedllm.integrations import finder
from sharedllm.utils.checkpoints import NoModel, load_config, load_model, load_tokenizer
from sharedllm.utils.errors import UserError


@pytest.fixture
def folder(base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "base")
    return tmp_path / "base"


def test_what_is_whole_loads(folder):
    assert type(load_model(str(folder))).__name__ == "LlamaForCausalLM"
    assert len(load_tokenizer(str(folder))) == 256


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x08\0\0\0\0\0\0\0{}      ", "half"])
def test_damaged_weights(folder, content):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(UserError, match="can't load the model") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "wide"}, {"num_hidden_layers": None}, {"model_type": 7}, {"vocab_size": -1}]
)
def test_a_configuration_of_wrong_types(folder, change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="can't load the model") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_configuration_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="can't load the model"):
        load_model(str(folder))


@pytest.mark.parametrize("text", ["{oops", "", b"\xff"])
def test_a_configuration_that_is_not_json(folder, text):
    """Whichever way a model is loaded: the message names the file, and what to do."""
    file = folder / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = f"{re.escape(str(file))} is damaged, it is not JSON: get the file again"
    for load in (load_config, load_model, load_tokenizer, SharedLLMForCausalLM.from_base):
        with pytest.raises(UserError, match=f"^can't load the .*: {said}"):
            load(str(folder))
    for ours in (SharedLLMForCausalLM, SharedLLMModel, SharedLLMConfig):
        with pytest.raises(UserError, match=f"^{said}"):
            ours.from_pretrained(folder)
    with pytest.raises(OSError, match="connect"):
        SharedLLMConfig.from_pretrained("nosuch/none", local_files_only=True)


def test_a_folder_that_has_only_a_gguf_file(tmp_path):
    for name in ("small.Q4.GGUF", "other.gguf"):
        (tmp_path / name).touch()
    for load in (load_config, load_model, load_tokenizer, SharedLLMForCausalLM.from_base):
        with pytest.raises(UserError, match=re.escape(f"but a .gguf file: name it, {tmp_path / 'other.gguf'}.")):
            load(str(tmp_path))


@pytest.mark.parametrize("load", [load_model, load_config])
def test_a_family_that_transformers_does_not_know(folder, load):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "nosuch"}))
    with pytest.raises(
        UserError, match=r"can't load the model .*: transformers [\d.]+ does not know its model_type='nosuch'\. "
    ) as caught:
        load(str(folder))
    assert "a supported family (docs/families.md), or update transformers" in str(caught.value)


def test_weights_that_may_hold_a_program_are_refused(folder):
    model = load_model(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"weights in pytorch_model\.bin.*only safetensors"):
        load_model(str(folder))


def test_what_is_missing_is_named(folder, run, monkeypatch):
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_model(str(folder.parent))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: w for n, w in weights.items() if "layers.2.mlp" not in n}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"3 of its weights are missing, such as model\.layers\.2\.mlp"):
        load_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="can't load the model"):
        load_model(str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("info", "nosuch")
    assert (code, out) == (2, "") and err.startswith("error: there is no folder nosuch") and err.count("\n") == 1
    assert "internet" not in err and "connect" not in err


def test_a_path_is_a_name_too():
    from sharedllm.utils.model_names import bundled_model, checkpoint

    assert checkpoint(bundled_model("base")) == str(bundled_model("base")) == checkpoint("base")


def test_a_models_folder_here_comes_before_a_bundled_model(tmp_path, monkeypatch, run, model_folder):
    from sharedllm.utils.model_names import bundled_model, checkpoint

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "notes.txt").write_text("A folder of documents is no model.")
    assert checkpoint("tiny") == str(bundled_model("tiny"))
    (tmp_path / "tiny" / "notes.txt").unlink()
    (tmp_path / "tiny").rmdir()
    (tmp_path / "tiny").symlink_to(model_folder, target_is_directory=True)
    assert checkpoint("tiny") == "tiny" and checkpoint("base") == str(bundled_model("base"))
    said = "tiny is the folder here, not the bundled model of that name\n"
    (tmp_path / "a.txt").write_text("The harbour master counted crates.")
    for model in ([], ["--model", "tiny"]):
        assert run("read", "a.txt", "-o", "a.memory", *model)[2].startswith(said)
    assert run("info", "a.memory", "--json")[1] and said not in run("info", "a.memory")[2]
    other = run("generate", "--context", "a.memory", "--prompt", "a", "--max-new-tokens", "1")
    assert other[0] == 0 and other[2].startswith(said)


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that can't be reached; waiting before another try fails the test."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time.sleep", lambda seconds: pytest.fail("it waits and tries again")
    )


def test_a_mistyped_name_fails_at_once_where_the_hub_can_not_be_reached(no_hub, run, tmp_path, text_folder):
    said = (
        "no folder nosuch/model, no bundled model of that name (tiny, base), and the Hugging Face hub can't be reached"
    )
    for load in (load_model, load_tokenizer):
        with pytest.raises(NoModel, match=re.escape(said)):
            load("nosuch/model")
    with pytest.raises(UserError, match=re.escape(said)):
        finder.loaded("nosuch/model", None)
    for arguments in (
        ["generate", "--prompt", "a", "--model", "nosuch/model"],
        ["extend", "nosuch/model", "-o", tmp_path / "m"],
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    assert not (tmp_path / "m").exists()


def test_a_cached_model_loads_where_the_hub_can_not_be_reached(no_hub, folder, tmp_path, monkeypatch):
    """Nor are files asked for that it does not have."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--some--model" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, snapshot)
    (cache / "models--some--model" / "refs").mkdir()
    (cache / "models--some--model" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    assert type(load_model("some/model")).__name__ == "LlamaForCausalLM" and len(load_tokenizer("some/model")) == 256
