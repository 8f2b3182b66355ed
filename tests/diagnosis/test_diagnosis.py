"""The diagnosis: with all layers chosen it equals the base; with none, the context has no effect."""

import json

import numpy as np
import pytest
import torch
from combined import FEW, kinds
from helpers import FAMILIES, VOCAB, tiny_base
from transformers import AutoTokenizer

from sharedllm import bundled_model
from sharedllm.diagnosis import FarAttention, diagnose
from sharedllm.diagnosis.measure import layer_sets, number_of_sets
from sharedllm.model.families import FAMILIES as TABLE

CONTEXT, RUNNING = 24, 9


@pytest.fixture
def ids():
    return torch.randint(0, VOCAB, (2, CONTEXT + RUNNING), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", kinds(TABLE, ("llama", *FEW)))
@torch.no_grad()
def test_all_layers_is_the_base(family, ids):
    model = tiny_base(family)
    far = FarAttention(model)
    ours = far.logits(far.read(ids[:, :CONTEXT]), ids[:, CONTEXT:], range(4))
    # Processors round products differently: on some the difference is above 1e-5. Logits are of size 1.
    assert torch.allclose(ours, model(ids).logits[:, CONTEXT:], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_no_layer_is_the_base_without_context(family, ids):
    model = tiny_base(family)
    far = FarAttention(model)
    running = ids[:, CONTEXT:]
    ours = far.logits(far.read(ids[:, :CONTEXT]), running, [])
    places = torch.arange(CONTEXT, CONTEXT + RUNNING).expand(2, -1)
    assert torch.allclose(ours, model(running, position_ids=places).logits, atol=1e-5)


@torch.no_grad()
def test_sliding_windows_stay(ids):
    model = tiny_base("mistral", sliding_window=7)
    far = FarAttention(model)
    ours = far.logits(far.read(ids[:, :CONTEXT]), ids[:, CONTEXT:], range(4))
    assert torch.allclose(ours, model(ids).logits[:, CONTEXT:], atol=1e-5)


@torch.no_grad()
def test_depth(ids):
    """Layer i reads the states entering layer min(i, depth): no difference for layers up to the depth, a difference
    after it."""
    model = tiny_base("qwen3")
    far = FarAttention(model)
    states, running = far.read(ids[:, :CONTEXT]), ids[:, CONTEXT:]
    for layer in range(4):
        ordinary = far.logits(states, running, [layer])
        for depth in range(4):
            same = torch.allclose(far.logits(states, running, [layer], depth), ordinary, atol=1e-6)
            assert same == (depth >= layer)


def test_unknown_family():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ValueError, match="gpt2"):
        FarAttention(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11)))


def test_sets_of_layers():
    sets = dict(layer_sets(6))
    assert sets["all"] == [0, 1, 2, 3, 4, 5] and sets["none"] == []
    assert sets["only 5"] == [5] and sets["all but 2"] == [0, 1, 3, 4, 5]
    assert sets["bottom 4"] == [0, 1, 2, 3] and sets["top 2"] == [4, 5]
    assert number_of_sets(6) == len(sets) + 6


def test_a_base_that_can_not_recall_names_no_layers():
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    model = tiny_base("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    tried = []
    text = np.random.default_rng(0).integers(3, len(tokenizer), 2000)
    found = diagnose(model, tokenizer, text, 128, 64, rows=2, progress=tried.append)
    assert found.needed == [] and found.injection_map == [] and found.lower_layers is None
    assert sum(tried) == number_of_sets(4) == len(found.by_layers) + len(found.by_depth)
    with pytest.raises(ValueError, match="has 2,000 tokens"):
        diagnose(model, tokenizer, text, 1024, 64)


@pytest.mark.slow
def test_bundled_base(run, tmp_path):
    """The bundled base recalls inside its window, and needs its upper layers for it; the result makes a valid model."""
    code, out, err = run("diagnose", "base", "--rows", 2, "-o", tmp_path / "found", "--json")
    assert code == 0, err
    result = json.loads(out)
    by_name = {score["name"]: score for score in result["by_layers"]}
    assert by_name["all"]["recall"] >= 0.9 and by_name["none"]["recall"] <= 0.5
    assert by_name["all"]["loss"] < by_name["none"]["loss"]
    assert result["needed"] and result["lower_layers"] == 1 + max(lower for lower, _ in result["injection_map"])
    assert result["context_tokens"] == 256 and result["environment"]["torch"]
    written = json.loads((tmp_path / "found/diagnosis.json").read_text())
    assert written == result
    assert (tmp_path / "found/diagnosis.png").read_bytes().startswith(b"\x89PNG")
    made = tmp_path / "made"
    pairs = ",".join(f"{lower}:{upper}" for lower, upper in result["injection_map"])
    arguments = ["--paper", "--lower-layers", result["lower_layers"], "--injection-map", pairs]
    assert run("extend", bundled_model("base"), "-o", made, *arguments)[0] == 0
    assert json.loads((made / "config.json").read_text())["injection_map"] == result["injection_map"]


def test_bad_requests(run, tmp_path):
    for arguments, message in (
        (["tiny"], "diagnose the base"),
        ([tmp_path / "nothing"], "does not exist or is not a folder"),
        (["base", "--context-tokens", 500, "--running-tokens", 100], "window of 512"),
        (["base", "--text", tmp_path / "no.txt"], "no.txt"),
    ):
        code, _, err = run("diagnose", *arguments)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err
