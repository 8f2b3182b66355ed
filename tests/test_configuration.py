"""Nothing is set on a live configuration: a difference for one call is an argument of that call."""

import ast
import copy
import dataclasses

import pytest
import torch
from helpers import byte_tokenizer, pad, random_texts, tiny_base, tiny_shared
from sources import PACKAGE, trees
from transformers import PreTrainedConfig

from sharedllm import SharedLLMConfig
from sharedllm.diagnosis.heads import measure_heads
from sharedllm.memory.int8 import Int8Keys
from sharedllm.systems.full import TimedFull
from sharedllm.systems.sharedllm.evaluated import Budgeted, Shared
from sharedllm.systems.timed import Setting
from sharedllm.systems.window import TimedWindow
from sharedllm.training import run as training
from sharedllm.utils.checkpoints import load_model, load_tokenizer

# Its own fields; transformers sets some fields of every configuration, such as `dtype`, when a model is saved.
FIELDS = {f.name for f in dataclasses.fields(SharedLLMConfig)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}


class Frozen(SharedLLMConfig):
    """A configuration that must not be changed."""

    def __setattr__(self, name, value):
        assert name not in FIELDS, f"config.{name} is set"
        super().__setattr__(name, value)


def frozen(model):
    object.__setattr__(model.config, "__class__", Frozen)
    return model


@pytest.fixture
def joint():
    return frozen(tiny_shared("llama", injection="joint", encoding="chunk", injection_map=[[1, 1], [2, 2], [2, 3]]))


def test_the_trap_works(joint):
    for name in ("strides", "memory_dtype", "selection_heads"):
        with pytest.raises(AssertionError, match=f"config.{name} is set"):
            setattr(joint.config, name, None)


@torch.no_grad()
def test_strides_of_one_reading(joint):
    """The same as a model that has them, and with that model's fingerprint, so that the two are not confused."""
    ids = torch.tensor(random_texts([70]))
    fine = tiny_shared(
        "llama", injection="joint", encoding="chunk", injection_map=[[1, 1], [2, 2], [2, 3]], strides=[2, 1]
    )
    got, own, wanted = joint.read(ids, strides=(2, 1)), joint.read(ids), fine.read(ids)
    assert torch.equal(got.position, wanted.position) and not torch.equal(got.position, own.position)
    assert all(torch.equal(a, b) for a, b in zip(got.keys, wanted.keys, strict=True))
    assert got.fingerprint == wanted.fingerprint == fine.fingerprint() != own.fingerprint == joint.fingerprint()
    with pytest.raises(ValueError, match="made by another model"):
        joint.append(got, ids)
    for strides, message in (((1, 2), "must not grow"), ((), "one positive stride"), ((0,), "one positive stride")):
        with pytest.raises(ValueError, match=message):
            joint.read(ids, strides=strides)


@torch.no_grad()
def test_systems(joint):
    far, running = torch.tensor(random_texts([70])), torch.tensor(random_texts([20], 1))
    found = {}
    for system in (
        Shared(joint),
        Shared(joint, strides=(1, 1, 1)),
        Shared(joint, rounded=True),
        Budgeted(joint, "budget", "attention", 16),
    ):
        state = system.prepare(far, running[:, :8])
        found[system.name, getattr(system, "strides", None), getattr(system, "rounded", None)] = system.score(
            state, running, 5
        ).log_probs
    values = list(found.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


@torch.no_grad()
def test_generation_holds_a_memory_as_it_is_told(joint, monkeypatch):
    """Also beyond the window, where the memory is made again."""
    held = []
    of = Int8Keys.of
    monkeypatch.setattr(Int8Keys, "of", lambda keys: held.append(len(keys)) or of(keys))
    ids, mask = pad(random_texts([9, 4]))
    memory = joint.read(torch.tensor(random_texts([70])))
    asked = {"attention_mask": mask, "memory": memory, "do_sample": False}
    for new in (4, 60):
        joint.generate(ids, max_new_tokens=new, **asked)
        assert not held
        joint.generate(ids, max_new_tokens=new, memory_dtype="int8", **asked)
        # Three layers; for the longer text again after each fold.
        assert (len(held) == 3) if new == 4 else (len(held) > 3 and set(held) == {2})
        held.clear()


def test_the_command_generate(model_folder, run, monkeypatch):
    from sharedllm.cli import loading

    folder = str(model_folder)
    monkeypatch.setattr(loading, "load", lambda name, source="": (frozen(load_model(name)), load_tokenizer(name)))
    code, out, err = run(
        "generate", "--model", folder, "--prompt", "abc", "--memory-dtype", "int8", "--max-new-tokens", 3
    )
    assert code == 0, err
    assert out


def test_calibration():
    """All heads are measured, even if the configuration names some."""
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    named = {"injection_map": [[1, 1], [2, 2], [2, 3]], "selection_heads": [[1, 3, 0.5]]}
    model = frozen(tiny_shared("llama", base=base, window=256, injection="joint", encoding="chunk", **named))
    text = torch.randint(0, 256, (600,), generator=torch.Generator().manual_seed(0))
    heads = measure_heads(model, byte_tokenizer(), text, questions=2)
    assert {(head.layer, head.head) for head in heads} == {(layer, head) for layer in (1, 2, 3) for head in range(4)}


def test_training(recipe, run, monkeypatch, tmp_path):
    """Strides that change from batch to batch, and different ones for recall."""
    make = training.make_model
    monkeypatch.setattr(training, "make_model", lambda *args: frozen(make(*args)))
    path = recipe(
        steps=2,
        schedule=[{"share": 1.0, "strides": [[1, 1, 1], [4, 4, 2]]}],
        validation={
            "every": 1,
            "windows": [0, 1],
            "tasks": ["needle"],
            "rows": 2,
            "task_rows": 2,
            "strides": [1, 1, 1],
        },
    )
    code, _, err = run("train", path)
    assert code == 0, err
    assert '"strides": [\n    4,\n    2,\n    1\n  ]' in (tmp_path / "run" / "model" / "config.json").read_text()


def is_configuration(owner: ast.expr | None) -> bool:
    """Whether an expression names a configuration: `config`, `text_config`, `model.config`, …"""
    name = getattr(owner, "attr", None) or getattr(owner, "id", None) or ""
    return name == "config" or name.endswith("_config")


def made_here(function: ast.AST) -> set[str]:
    """Names that a function binds to the result of a call, such as a copy, which no one else has yet."""
    assigns = [node for node in ast.walk(function) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    return {target.id for node in assigns for target in node.targets if isinstance(target, ast.Name)}


def sets_on_configurations(tree: ast.AST) -> list[str]:
    """Attributes that a module sets on configurations that it did not make: by `=`, `+=`, `setattr` and the like, and by
    transformers' `set_attn_implementation`."""
    found = []
    own: dict[ast.AST, set[str]] = {}
    for function in ast.walk(tree):  # inner functions come later, and add their own
        if isinstance(function, ast.FunctionDef):
            made = made_here(function)
            for node in ast.walk(function) if made else ():
                own[node] = own.get(node, set()) | made
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [getattr(node, "target", None)]
        parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
        set_here = [(p.value, p.attr) for p in parts if isinstance(p, ast.Attribute)]
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            if name in ("setattr", "delattr", "__setattr__") and len(node.args) > 1:
                set_here.append((node.args[0], ast.unparse(node.args[1])))
            if name == "set_attn_implementation" and getattr(node.func.value, "id", None) not in own.get(node, ()):
                found.append(name)
        for owner, attribute in set_here:
            if is_configuration(owner) and getattr(owner, "id", None) not in own.get(node, ()):
                found.append(attribute)
    return found


def test_no_source_sets_anything_on_a_configuration():
    """Outside the construction of configurations and models."""
    found = {}
    for path, tree in trees().items():
        # A model and its base share one base configuration from the start.
        if attributes := set(sets_on_configurations(tree)) - {"text_config"}:
            found[str(path.relative_to(PACKAGE))] = attributes
    made = found.pop("model/base_config.py")
    assert "_attn_implementation" in made and "window" in made, "the search finds the planted ones"
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "model.config._attn_implementation = 'x'",
        "self.config.text_config.window += 1",
        "config.rope_parameters, other = 1, 2",
        "setattr(model.config, name, 1)",
        "base.generation_config.top_k: int = 1",
        "model.set_attn_implementation('x')",
    ],
)
def test_the_search_finds(line):
    assert sets_on_configurations(ast.parse(f"def work(model, config):\n    {line}"))
    assert not sets_on_configurations(
        ast.parse("def work(model):\n    config = copy.deepcopy(model.config)\n    config.window = 1")
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", [TimedFull, TimedWindow])
def test_systems_that_are_timed(kind):
    """Full attention with its own kernel over a shared base does not change the base's configuration."""
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    before, seen = copy.deepcopy(base.config.__dict__), []

    class Watched(type(base.config)):
        def __setattr__(self, name, value):
            if self is base.config:
                seen.append(name)
            super().__setattr__(name, value)

    object.__setattr__(base.config, "__class__", Watched)
    system = kind("full", base, Setting(64, 16, {}, 2, 64))
    ids = torch.randint(0, 256, (1, 100))
    state = system.read(ids[:, : -system.running])
    logits = system.first(state, ids[:, -system.running :])
    assert seen == [] and base.config.__dict__ == before
    assert {p.data_ptr() for p in system.model.parameters()} == {p.data_ptr() for p in base.parameters()}
    plain = base(ids if kind is TimedFull else ids[:, -system.running :], logits_to_keep=1).logits
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)
