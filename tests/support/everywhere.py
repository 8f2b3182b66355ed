"""Settings for all processes that run tests, and shared fixtures: small models on disk, and the command line.

One thread, so that tiny models run fast and results are reproducible; no deadlines, for busy machines.
"""

import copy
import gc
import os
import random
from pathlib import Path

import pytest
import torch
import yaml
from helpers import byte_tokenizer, tiny_base
from hypothesis import settings

from sharedllm import SharedLLMForCausalLM
from sharedllm.cli import main
from sharedllm.cli.loading import load_model
from sharedllm.utils.model_names import BUNDLED, MODELS, hides_bundled

torch.set_num_threads(1)
os.fsync = lambda descriptor: None  # no test cuts the power, and disks take milliseconds for each
settings.register_profile("repeatable", deadline=None, max_examples=50, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_collection_finish():
    """What was imported and collected stays to the end: garbage is not looked for in it again and again, nor after each
    700 new objects, as Python does by itself."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 30)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A random base over bytes, with a window of 64."""
    folder = tmp_path_factory.mktemp("models") / "base"
    byte_tokenizer().save_pretrained(folder)
    tiny_base("llama", vocab_size=256).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_base_folder(tmp_path_factory):
    """The same with a window of 256, in which a question has room."""
    folder = tmp_path_factory.mktemp("wide") / "base"
    byte_tokenizer().save_pretrained(folder)
    tiny_base("llama", vocab_size=256, max_position_embeddings=256).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(base_folder):
    return extended(base_folder, 2)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A model of another base with two layers, for tests that look at what is around it."""
    base = tmp_path_factory.mktemp("small") / "base"
    byte_tokenizer().save_pretrained(base)
    tiny_base("llama", vocab_size=256, num_hidden_layers=2).save_pretrained(base)
    return extended(base, 1)


def extended(base: Path, lower_layers: int) -> Path:
    folder = base.parent / "model"
    arguments = ["--chunk-size", "16", "--strides", "4,2,1", "--lower-layers", str(lower_layers), "--encoding", "chunk"]
    with pytest.raises(SystemExit, match="0"):
        main(["extend", str(base), "-o", str(folder), "--paper", *arguments])
    # Open gates, as if trained: with gates at 0 `ask` says that the text is ignored.
    model = SharedLLMForCausalLM.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            parameter.data.fill_(0.5)
    model.save_pretrained(folder)
    return folder


LOADED: dict[tuple, torch.nn.Module] = {}


def loaded_once(name, *settings, **options):
    """`load_model`; of a folder that is as it was the last time a copy of that model, which takes a tenth of the time."""
    folder = Path(MODELS / name if name in BUNDLED and not hides_bundled(name) else name)
    if not (folder / "config.json").is_file():
        return load_model(name, *settings, **options)
    files = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.iterdir()))
    key = (folder.resolve(), files, repr(settings), repr(options))
    if key not in LOADED:
        while len(LOADED) >= 8:
            del LOADED[next(iter(LOADED))]
        LOADED[key] = load_model(name, *settings, **options)
    return copy.deepcopy(LOADED[key])


@pytest.fixture
def no_weights(monkeypatch):
    """Loading any weights fails the test."""
    monkeypatch.setattr(f"{__name__}.LOADED", {})
    monkeypatch.setattr("transformers.modeling_utils.safe_open", lambda *_, **__: pytest.fail("weights are loaded"))


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command; returns exit code, stdout and stderr."""
    for module in ("sharedllm.loading", "sharedllm.cli.loading"):
        monkeypatch.setattr(f"{module}.load_model", loaded_once)

    def call(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


WORDS = "the falcon of silver sang in a quiet harbour while old captains slept and every lantern burned low".split()


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("text")
    for number in range(8):
        sentences = [" ".join(rng.choices(WORDS, k=9)).capitalize() + "." for _ in range(60)]
        (folder / f"{number}.txt").write_text(" ".join(sentences) + "\n")
    return folder


@pytest.fixture
def recipe(tmp_path, text_folder, base_folder, monkeypatch):
    """Write a small recipe in fp32, changed by keywords; returns its path.

    Runs in this process draw no curves and count no operations, which takes half of their time: `monkeypatch.undo()` for whole ones.
    """
    monkeypatch.setattr("sharedllm.training.run.draw_curves", lambda *_: None)
    monkeypatch.setattr("sharedllm.training.utilisation.count_operations", lambda run: 1)

    def write(name: str = "run", **changes) -> Path:
        content = {
            "stage": "extend",
            "base": str(base_folder),
            "output": str(tmp_path / name),
            "steps": 6,
            "model": {
                "window": 64,
                "chunk_size": 16,
                "strides": [4, 2, 1],
                "lower_layers": 2,
                "injection_map": [[0, 0], [1, 1], [1, 3]],
                "encoding": "chunk",
                "split_noise": 0.0,
            },
            "data": {
                "folder": str(tmp_path / "tokens"),
                "sources": {"words": {"files": str(text_folder)}},
                "validation_share": 0.2,
            },
            "train": {"gates": 0.01, "cross_attention": 0.003, "everything": 0.001},
            "context": 64,
            "running": 64,
            "kinds": {"text": 0.6, "alone": 0.2, "copy": 0.2},
            "batch_tokens": 1024,
            "micro_tokens": 512,
            "precision": "fp32",
            "save_dtype": "float32",
            "validation": {"every": 3, "rows": 4, "windows": [0, 1, 2], "tasks": ["copy"], "task_rows": 4},
            "checkpoint_every": 2,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write
