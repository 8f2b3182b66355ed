"""The script that trains a real base runs in small, stage by stage, and again where it stopped."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from safetensors.torch import load_file

from sharedllm.utils.model_names import bundled_model

ROOT = Path(__file__).parents[2]
WORDS = "the falcon of silver sang in a quiet harbour while old captains slept and every lantern burned low".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    for domain in ("books", "code", "proofs"):
        for part in ("train", "validation", "test"):
            texts = [" ".join(rng.choices(WORDS, k=3000)) + "." for _ in range(2)]
            lines = "".join(json.dumps({"text": text, "title": f"{domain} {n}"}) + "\n" for n, text in enumerate(texts))
            (folder / f"{domain}-{part}-000.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    return folder


@pytest.mark.slow
def test_a_real_base_on_a_gpu_in_small(corpus, tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"SMALL": "1", "SEEDS": "3", "OMP_NUM_THREADS": "1", "PATH": path}

    def stage(name: str, **more: str) -> str:
        command = ["bash", ROOT / "runs/gpu_real_train.sh", name, bundled_model("base"), corpus, tmp_path]
        done = subprocess.run(command, env=os.environ | settings | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "not done yet: run it again" in stage("tokens", LIMIT="1")
    assert "tokens is done" in stage("tokens")
    for name in ("lm", "control", "band", "band-control", "paper", "sft"):
        assert f"{name} is done" in stage(name), name
        assert (tmp_path / name / "seed-3" / "adapter" / "adapter.json").is_file()
    before = (tmp_path / "lm" / "seed-3" / "log.jsonl").stat().st_mtime_ns
    assert "lm is done" in stage("lm")
    assert (tmp_path / "lm" / "seed-3" / "log.jsonl").stat().st_mtime_ns == before, "what is done stays as it is"
    recipe = json.loads((tmp_path / "control" / "seed-3" / "recipe.json").read_text())
    assert (recipe["control"], recipe["seed"], recipe["steps"]) == ("empty", 3, 2)
    recipe = json.loads((tmp_path / "band" / "seed-3" / "recipe.json").read_text())
    assert (recipe["model"]["injection_map"], recipe["lora"]["layers"]) == ([[1, 1]], [1])
    assert "evaluate is done" in stage("evaluate")
    assert (tmp_path / "results" / "lm" / "report.md").is_file()
    stage("pack")
    packed = tmp_path / "pack"
    assert (packed / "results.tar.xz").stat().st_size > 0
    names = load_file(packed / "paper" / "seed-3" / "adapter.safetensors")
    assert any(name.endswith(".gate") for name in names) and any(name.endswith(".lora_A") for name in names)
