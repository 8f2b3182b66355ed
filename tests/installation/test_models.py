"""The models on disk: bundled, in the hub's cache, in folders; what can't be used is named with its reason."""

import json

import pytest

from sharedllm.installation.models import bundled, cached, in_folder
from sharedllm.utils.errors import UserError


def model(folder, config, *files):
    """A folder with a configuration and files of 1,000 bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (folder / name).write_bytes(bytes(1000))
    return folder


QWEN = {"model_type": "qwen2"}
EXTENDED = {"model_type": "sharedllm", "injection": "deep", "window": 4096, "text_config": QWEN}


@pytest.fixture
def cache(tmp_path):
    """A cache as the hub's library makes it: snapshots of links to blobs, and the names of versions."""
    root = tmp_path / "hub"
    whole = root / "models--Qwen--Qwen2.5--0.5B"
    blob = whole / "blobs" / "aa"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(5000))
    newest = model(whole / "snapshots" / "111", QWEN)
    (newest / "model.safetensors").symlink_to(blob)
    model(whole / "snapshots" / "000", {"model_type": "bert"}, "model.safetensors")
    (whole / "refs").mkdir()
    (whole / "refs" / "main").write_text("111")
    model(root / "models--google--bert" / "snapshots" / "2", {"model_type": "bert"}, "model.safetensors")
    model(root / "models--a--half" / "snapshots" / "3", QWEN)
    shards = model(root / "models--a--shards" / "snapshots" / "4", QWEN, "model-1.safetensors")
    weights = {"x": "model-1.safetensors", "y": "model-2.safetensors"}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    model(root / "models--a--broken" / "snapshots" / "5", "{")
    model(root / "models--a--listed" / "snapshots" / "5", "[]")
    (root / "models--a--empty" / "snapshots").mkdir(parents=True)
    (root / "models--a--gguf" / "snapshots" / "6").mkdir(parents=True)
    (root / "models--a--gguf" / "snapshots" / "6" / "q4.gguf").write_bytes(b"GGUF" + bytes(696))
    (root / "datasets--a--b").mkdir()
    return root


def test_bundled_models():
    found = {model.name: model for model in bundled()}
    assert {name: (m.kind, m.family) for name, m in found.items()} == {
        "base": ("base", "llama"),
        "tiny": ("extended", "llama"),
    }
    assert "injection=joint, window 512" in found["tiny"].about and 1e7 < found["tiny"].nbytes < 2e7


def test_the_cache(cache):
    found = {model.name: model for model in cached(cache)}
    qwen = found.pop("Qwen/Qwen2.5--0.5B")
    assert (qwen.kind, qwen.family, qwen.where) == ("base", "qwen2", "cache")
    assert qwen.nbytes == 5000 + len(json.dumps(QWEN)) and qwen.path.endswith("snapshots/111")
    gguf = found.pop(str(cache / "models--a--gguf/snapshots/6/q4.gguf"))
    assert (gguf.kind, gguf.family, gguf.nbytes) == ("base", "gguf", 700)
    assert {name: (m.kind, m.about) for name, m in found.items()} == {
        "google/bert": ("other", "not a decoder that can be extended"),
        "a/half": ("other", "its weights are not here as safetensors"),
        "a/shards": ("other", "1 of 2 files of weights are not here"),
        "a/broken": ("other", "config.json can't be read: JSONDecodeError"),
        "a/listed": ("other", "config.json can't be read: AttributeError"),
    }


@pytest.mark.parametrize(
    ("config", "files", "about"),
    [
        (
            {"model_type": "sharedllm"},
            {"model.safetensors": 9},
            "its config.json has no text_config, which describes its base",
        ),
        (QWEN, {"model.safetensors": 0}, "model.safetensors is empty: copy or fetch it again"),
        (
            EXTENDED,
            {"model-1.safetensors": 9, "model-2.safetensors": 0},
            "model-2.safetensors is empty: copy or fetch it again",
        ),
    ],
)
def test_what_lacks_is_named(tmp_path, config, files, about):
    folder = model(tmp_path / "model", config)
    for name, size in files.items():
        (folder / name).write_bytes(bytes(size))
    ((found),) = in_folder(str(folder))
    assert (found.kind, found.about) == ("other", about)


def test_no_cache(tmp_path):
    assert cached(tmp_path / "nothing") == []


def test_folders(tmp_path):
    model(tmp_path / "models" / "owner" / "one", EXTENDED, "model.safetensors")
    model(tmp_path / "models" / "two", QWEN, "model.safetensors")
    model(tmp_path / "models" / "far" / "too" / "deep", QWEN, "model.safetensors")
    found = in_folder(str(tmp_path / "models"))
    assert [(m.name, m.kind, m.family) for m in found] == [
        (str(tmp_path / "models/owner/one"), "extended", "qwen2"),
        (str(tmp_path / "models/two"), "base", "qwen2"),
    ]
    assert found[0].about == "injection=deep, window 4096"
    assert in_folder(str(tmp_path / "models" / "two")) == [found[1]]
    (tmp_path / "q8.gguf").write_bytes(b"GGUF")
    assert [m.name for m in in_folder(str(tmp_path / "q8.gguf"))] == [str(tmp_path / "q8.gguf")]
    (tmp_path / "q8.gguf").write_bytes(b"what a failed download left")
    (broken,) = in_folder(str(tmp_path / "q8.gguf"))
    assert broken.kind == "other" and "is no GGUF file" in broken.about


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch", "does not exist or is not a folder"),
        ("", "is empty"),
        ("empty", "holds no model"),
        ("a.txt", "is not a folder"),
    ],
)
def test_folders_without_models_are_refused(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=said):
        in_folder(str(tmp_path / name) if name else name)


def test_the_command(run, tmp_path, cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    code, out, err = run("models")
    assert code == 0 and "Qwen/Qwen2.5--0.5B" in out and "bert" not in out
    assert (
        all(name in out for name in ("tiny", "base", "11."))
        and "5 more can't be used (?, qwen2, bert): --all shows them" in err
    )
    code, out, err = run("models", "--all")
    assert code == 0 and "google/bert" in out and "not a decoder that can be extended" in out and err == ""
    code, out, _ = run("models", "--json", model(tmp_path / "mine", EXTENDED, "model.safetensors"))
    names = [m["name"] for m in json.loads(out)["models"]]
    assert names[:2] == ["base", "tiny"] and names[-1] == str(tmp_path / "mine") and code == 0
    code, out, err = run("models", "nosuch")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: nosuch does not exist")


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {"a": 1}}', "[" * 20_000, "not JSON"])
def test_a_broken_list_of_weights_hides_no_other_model(tmp_path, run, index):
    for name in ("good", "bad\x1b[31m"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "good" / "model.safetensors").write_bytes(b"x")
    (tmp_path / "bad\x1b[31m" / "model.safetensors.index.json").write_text(index)
    code, out, err = run("models", tmp_path, "--all")
    assert code == 0, err
    assert "good" in out and "the list of its weights can't be read" in out and "\x1b" not in out
