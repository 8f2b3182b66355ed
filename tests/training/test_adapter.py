"""Adapters as deltas: what a run writes is loaded onto its base and gives the run's model, and onto no other one."""

import json
import shutil

import pytest
import torch
from helpers import byte_tokenizer, tiny_base
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sharedllm.training.adapter import add_delta, weights_hash
from sharedllm.utils.errors import UserError

LORA = {"rank": 2, "alpha": 4.0}
TRAIN = {"lora": 0.05, "gates": 0.05, "cross_attention": 0.01}


@pytest.fixture(scope="session")
def bf16_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "bf16"
    byte_tokenizer().save_pretrained(folder)
    tiny_base("llama", vocab_size=256, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen": "bfloat16", "precision": "bf16"},
        pytest.param({}, marks=pytest.mark.slow),
        {"model": {"window": 64, "chunk_size": 16, "strides": [4, 2], "injection": "joint", "encoding": "chunk"}},
    ],
    ids=["frozen in bf16", "frozen in fp32", "joint"],
)
def test_an_adapter_makes_the_runs_model(run, recipe, tmp_path, bf16_base, changes, monkeypatch):
    """Bit by bit, in the base's dtype."""
    train = {"lora": 0.05} if "model" in changes else TRAIN
    settings = {"base": str(bf16_base), "lora": LORA, "train": train, "steps": 2, "save_dtype": "bfloat16"}
    monkeypatch.setattr("sharedllm.training.utilisation.fast_bf16", lambda: False)
    code, _, err = run("train", recipe(**settings | changes))
    assert code == 0, err
    assert ("this CPU emulates products in bf16" in err) == ("precision" in changes)
    adapter = tmp_path / "run" / "adapter"
    assert sorted(p.name for p in adapter.iterdir()) == ["README.md", "adapter.json", "adapter.safetensors"]
    code, out, err = run("extend", bf16_base, "--adapter", adapter, "-o", tmp_path / "made", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == str(tmp_path / "made")
    made, trained = (
        AutoModelForCausalLM.from_pretrained(f, dtype="auto") for f in (tmp_path / "made", tmp_path / "run" / "model")
    )
    assert made.config.strides == trained.config.strides and made.config.injection == trained.config.injection
    theirs = trained.state_dict()
    assert made.state_dict().keys() == theirs.keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    base = AutoModelForCausalLM.from_pretrained(bf16_base, dtype="auto")
    changed = [
        n for n, p in base.named_parameters() if not torch.equal(p, theirs[n.replace("model.", "model.upper.", 1)])
    ]
    assert changed and all("_proj" in name and "self_attn" in name for name in changed)
    assert "sharedllm extend BASE --adapter" in (adapter / "README.md").read_text()
    code, _, err = run("info", tmp_path / "made")
    assert code == 0, err


@pytest.mark.slow
def test_an_adapter_of_a_model_that_was_extended_before(run, recipe, tmp_path):
    assert run("train", recipe("first", steps=1))[0] == 0
    first = tmp_path / "first" / "model"
    settings = {"lora": LORA, "train": {"lora": 0.05}, "steps": 1, "model": {"strides": [2, 1], "overlap": 4}}
    assert run("train", recipe("second", base=str(first), **settings))[0] == 0
    adapter = tmp_path / "second" / "adapter"
    code, _, err = run("extend", first, "--adapter", adapter, "-o", tmp_path / "made")
    assert code == 0, err
    made, trained = (
        AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "made", tmp_path / "second" / "model")
    )
    assert made.config.strides == [2, 1] and made.config.overlap == 4
    for (name, one), two in zip(made.state_dict().items(), trained.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-2, rtol=1e-2, msg=name)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, base_folder, text_folder):
    """An adapter of one step, for `base_folder`."""
    from sharedllm.training.recipe_file import build_recipe
    from sharedllm.training.run import train

    folder = tmp_path_factory.mktemp("adapter")
    train(
        build_recipe(
            {
                "stage": "extend",
                "base": str(base_folder),
                "output": str(folder / "run"),
                "steps": 1,
                "model": {"window": 64, "chunk_size": 16, "strides": [4, 2, 1], "lower_layers": 2},
                "data": {
                    "folder": str(folder / "tokens"),
                    "sources": {"words": {"files": str(text_folder)}},
                    "validation_share": 0.0,
                },
                "train": TRAIN,
                "lora": LORA,
                "context": 64,
                "running": 64,
                "batch_tokens": 512,
                "micro_tokens": 512,
                "precision": "fp32",
            }
        )
    )
    return folder / "run" / "adapter"


def test_what_an_adapter_says_of_itself(adapter, base_folder):
    about = json.loads((adapter / "adapter.json").read_text())
    assert about["base"] == "base" and about["recipe"]["lora"]["rank"] == 2 and about["scaling"] == 2.0
    assert about["weights"] == weights_hash(AutoModelForCausalLM.from_pretrained(base_folder))
    assert str(base_folder.parent) not in (adapter / "adapter.json").read_text(), "no folders of this machine"
    tensors = load_file(adapter / "adapter.safetensors")
    assert not any("base_model" in name or "default" in name for name in tensors)
    assert {t.dtype for n, t in tensors.items() if n.endswith(".gate")} == {torch.float32}


def test_the_hash_is_that_of_values_not_of_dtypes():
    base = tiny_base("llama", dtype=torch.bfloat16)
    before = weights_hash(base)
    assert weights_hash(base.float()) == before
    base.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    assert weights_hash(base) != before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "adapter.json").unlink(), "is not an adapter: it has no adapter.json"),
        (lambda f: (f / "adapter.json").write_text("{"), "adapter.json is damaged"),
        (lambda f: (f / "adapter.json").write_text("[]"), "adapter.json is damaged"),
        (lambda f: edit(f, lambda about: about.pop("weights")), "lacks 'weights'"),
        (lambda f: edit(f, lambda about: about.update(version=9)), "is of version 9, this program reads 1"),
        (lambda f: edit(f, lambda about: about.update(scaling="much")), "scaling='much' is of the wrong type"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"short"), "adapter.safetensors is missing or damaged"),
        (lambda f: (f / "adapter.safetensors").unlink(), "adapter.safetensors is missing or damaged"),
        (lambda f: widen(f), "has shape (33, 32) in it, and this model has (32, 32) there"),
    ],
    ids=["no file", "no JSON", "no object", "a field", "a version", "a type", "tensors", "no tensors", "a shape"],
)
def test_damaged_adapters_are_refused(run, tmp_path, adapter, base_folder, spoil, message):
    copy = tmp_path / "adapter"
    shutil.copytree(adapter, copy)
    spoil(copy)
    code, _, err = run("extend", base_folder, "--adapter", copy, "-o", tmp_path / "made")
    assert code == 2 and message in " ".join(err.split()), err
    assert not (tmp_path / "made").exists()


def edit(folder, change) -> None:
    about = json.loads((folder / "adapter.json").read_text())
    change(about)
    (folder / "adapter.json").write_text(json.dumps(about))


def widen(folder) -> None:
    """Tensors of another shape under a right checksum."""
    import hashlib

    tensors = load_file(folder / "adapter.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.lora_B"))
    tensors[name] = torch.zeros(33, 2)
    save_file(tensors, folder / "adapter.safetensors")
    digest = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda about: about.update(tensors=digest))


def test_another_base_is_refused(run, tmp_path, adapter, model_folder):
    for name, options, message in (
        ("weights", {"seed": 5}, "has other weights: name the base that it was trained on"),
        ("shape", {"hidden_size": 64}, "with hidden_size 32"),
        ("layers", {"num_hidden_layers": 3}, "with num_hidden_layers 4"),
    ):
        folder = tmp_path / name
        byte_tokenizer().save_pretrained(folder)
        tiny_base("llama", vocab_size=256, **options).save_pretrained(folder)
        code, _, err = run("extend", folder, "--adapter", adapter, "-o", tmp_path / "made")
        assert code == 2 and message in " ".join(err.split()), err
    code, _, err = run("extend", model_folder, "--adapter", adapter, "-o", tmp_path / "made")
    assert code == 2 and "has other weights" in " ".join(err.split()), "it is extended already"
    assert not (tmp_path / "made").exists()


def test_settings_beside_an_adapter_are_refused(run, tmp_path, adapter, base_folder):
    for options in (["--paper"], ["--window", 32], ["--overlap", 4], ["--injection", "joint"]):
        code, _, err = run("extend", base_folder, "--adapter", adapter, "-o", tmp_path / "made", *options)
        assert code == 2 and "--adapter brings all settings with it" in " ".join(err.split())


def test_half_of_a_low_rank_weight_is_refused():
    base = tiny_base("llama")
    with pytest.raises(UserError, match="no second half of its rank"):
        add_delta(base, {"model.layers.0.self_attn.q_proj.lora_A": torch.zeros(2, 32)}, 1.0)
    with pytest.raises(UserError, match="no such weight"):
        add_delta(base, {"model.layers.9.gate": torch.zeros(1)}, 1.0)


def test_models_whose_own_weights_train_have_no_adapter(run, recipe, tmp_path):
    assert run("train", recipe(steps=1))[0] == 0
    assert not (tmp_path / "run" / "adapter").exists()
