"""Frozen parts: their dtype, no gradients through what lies below everything that trains, operations counted right."""

import functools

import pytest
import torch
from helpers import padded_rows, tiny_base, tiny_shared
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sharedllm.data.shards import TokenStore
from sharedllm.model.targets import IGNORE
from sharedllm.training.log import read_log
from sharedllm.training.losses import RowLosses, autocast
from sharedllm.training.parts import add_lora, checkpoint_activations, frozen_in, learning_rates
from sharedllm.training.recipe import Lora
from sharedllm.training.validate import choose_targets
from sharedllm.utils.hardware import count_operations

LORA = {"rank": 2, "alpha": 4.0}


def adapted(model, train, **lora):
    losses = RowLosses(add_lora(model, Lora(**LORA | lora), train).train())
    learning_rates(losses, train, model.config)
    return losses


def test_dtypes_of_what_trains_and_what_does_not():
    losses = adapted(tiny_shared("llama"), {"lora": 1.0, "gates": 1.0, "cross_attention": 1.0})
    frozen_in(losses, torch.bfloat16)
    dtypes = {p.requires_grad: set() for p in losses.parameters()}
    for parameter in losses.parameters():
        dtypes[parameter.requires_grad].add(parameter.dtype)
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
    with autocast(torch.device("cpu"), "bf16"):
        got = losses(**padded_rows())
    got.loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in losses.parameters() if p.requires_grad)
    assert all(p.grad is None for p in losses.parameters() if not p.requires_grad)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_kept_of_layers_below_what_trains(checkpointing):
    """peft lets the embeddings need gradients where activations are checkpointed, and with them all layers."""
    model = tiny_shared("llama", injection="joint", encoding="chunk", lower_layers=2)
    losses = adapted(model, {"lora": 1.0}, layers=[3])
    if checkpointing:
        checkpoint_activations(model)
    entering = {}
    for index, layer in enumerate(model.model.upper.layers):
        layer.register_forward_pre_hook(lambda _, inputs, i=index: entering.update({i: inputs[0].requires_grad}))
    losses(**padded_rows()).loss.sum().backward()
    assert entering == {0: False, 1: False, 2: False, 3: False}
    trained = {name: p for name, p in losses.named_parameters() if p.requires_grad}
    assert trained and all(".layers.3." in name for name in trained)
    assert any(p.grad.abs().sum() > 0 for p in trained.values())


@pytest.mark.parametrize("injection", ["cross", "joint", "deep"])
def test_activation_checkpointing_changes_no_gradient(injection):
    """While the context is read, too."""
    gradients = []
    for checkpointing in (False, True):
        model = tiny_shared("llama", injection=injection, encoding="chunk", split_noise=0.0)
        losses = adapted(model, {"lora": 1.0})
        with torch.no_grad():
            for number, (name, parameter) in enumerate(losses.named_parameters()):
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
        if checkpointing:
            checkpoint_activations(model)
        losses(**padded_rows()).loss.sum().backward()
        gradients.append({name: p.grad for name, p in losses.named_parameters() if p.requires_grad})
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, msg=name)
    assert sum(float(g.abs().sum()) for g in gradients[0].values()) > 0


def both_passes(losses: RowLosses, ids: torch.Tensor) -> None:
    losses(ids, torch.ones_like(ids).bool(), ids).loss.sum().backward()


def test_operations_of_frozen_weights_are_not_counted():
    """A product costs one more for its input's gradient, and another one only for the gradient of weights that train."""
    counts = {}
    for trains in ("everything", "embeddings", "top"):
        model = tiny_base("llama").train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trains == "everything" or (trains == "embeddings") == ("embed" in name))
            if trains == "top":
                parameter.requires_grad_("layers.3.mlp" in name)
        ids = torch.arange(40).reshape(2, 20)
        counts[trains] = count_operations(functools.partial(both_passes, RowLosses(model), ids))
    layers = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2)
    top = sum(p.numel() for n, p in model.named_parameters() if "layers.3.mlp" in n)
    # Forward, gradients of inputs; weights too. A head that trains runs again for the backward pass, on tokens with a label.
    head, tokens, labels = model.lm_head.weight.numel(), 40, 38
    once = 2 * (layers * tokens + head * labels)
    # Two rows of 20 tokens, 4 layers of 4 heads of 8 numbers; backward the scores again, and both products twice.
    attention = 4 * 2 * (2 * 2 * 4 * 20 * 20 * 8)
    assert counts["everything"] - counts["embeddings"] == once + 2 * head * labels, "gradients of weights"
    assert counts["embeddings"] == 2 * once + attention * (1 + 2.5)
    below = counts["embeddings"] - counts["top"]
    assert below > 2 * (layers - top) * tokens * 0.9, "no gradients below the last layer's MLP"


@pytest.mark.slow
def test_a_run_with_frozen_weights_in_bf16(run, recipe, tmp_path, base_folder):
    """It resumes, and checkpoints and the saved model hold what they should."""
    settings = {"frozen": "bfloat16", "precision": "bf16", "lora": LORA, "train": {"lora": 0.01, "gates": 0.05}}
    for name, stops in (("whole", [None]), ("parts", [2, None])):
        for stop in stops:
            code, _, err = run("train", recipe(name, steps=4, **settings), *(["--max-steps", stop] if stop else []))
            assert code == 0, err
    logs = [[r["loss"] for r in read_log(tmp_path / n / "log.jsonl") if "loss" in r] for n in ("whole", "parts")]
    assert logs[0] == logs[1] and len(logs[0]) == 4
    held = load_file(tmp_path / "whole" / "checkpoints" / "step-00000004" / "weights.safetensors")
    assert all("lora_" in name or name.endswith(".gate") for name in held)
    assert {tensor.dtype for tensor in held.values()} == {torch.float32}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "model")
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    saved = model.model.upper.layers[0].mlp.up_proj.weight
    assert torch.equal(saved, base.model.layers[0].mlp.up_proj.weight.bfloat16().float())
    code, _, err = run("train", recipe("other", **settings | {"precision": "fp32"}))
    assert code == 2 and "frozen=bfloat16 needs precision: bf16" in err


def test_layers_and_targets_of_adapters(run, recipe, tmp_path):
    code, _, err = run("train", recipe(lora=LORA | {"layers": [1, 9]}, train={"lora": 0.01}))
    assert code == 2 and "lora.layers has 9, but the base has layers 0 … 3" in err
    code, _, err = run("train", recipe(lora=LORA | {"targets": ["query"]}, train={"lora": 0.01}))
    assert code == 2 and "lora.targets=['query'] are no modules of this model" in err
    settings = {"lora": LORA | {"layers": [1, 2]}, "train": {"lora": 0.01, "cross_attention": 0.001}, "steps": 1}
    code, _, err = run("train", recipe(**settings))
    assert code == 0, err
    names = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "weights.safetensors").keys()
    assert {name.split(".layers.")[1][0] for name in names if "lora_" in name} == {"1", "2"}
    assert not any(".injection." in name and "lora_" in name for name in names), "what trains itself has no adapters"


def test_what_a_model_forgets_is_in_log_and_card(run, recipe, tmp_path, base_folder):
    validation = {"every": 1, "rows": 4, "windows": [0, 2, 99], "tasks": []}
    code, _, err = run("train", recipe(steps=1, validation=validation))
    assert code == 0 and "words: no validation document has 6336 tokens of context; not measured: [6336]" in err
    records = read_log(tmp_path / "run" / "log.jsonl")
    (before,) = (r["before"] for r in records if "before" in r)
    now = [r["validation"] for r in records if "validation" in r][-1]["words"]["0"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"before training → now: words {before['words']:.3f} → {now:.3f}." in card
    # Cross-attention changes nothing before it is trained, so this is the base's own loss.
    store = TokenStore(tmp_path / "tokens" / "words", "validation")
    targets = choose_targets(store, 64, 128, 4, 1)
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    ids = torch.from_numpy(targets.running)
    labels = ids.clone()
    labels[:, :32] = IGNORE
    with torch.no_grad():
        assert float(base(ids, labels=labels).loss) == pytest.approx(before["words"], rel=1e-4)
