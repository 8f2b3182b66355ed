"""Follows the pages of docs/extending: the page's file as a module, the page's line, and a run."""

import re
import sys
from pathlib import Path

import pytest
import torch
from benches import NEW, TOY
from helpers import tiny_base
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sharedllm import SharedLLMForCausalLM
from sharedllm.benchmark.systems import make_timed
from sharedllm.context.policies import POLICIES
from sharedllm.data.questions import QUESTIONS
from sharedllm.evaluation.tasks import TASKS
from sharedllm.model.families import FAMILIES
from sharedllm.model.families.family import Family
from sharedllm.scoring import SCORES
from sharedllm.systems import SYSTEMS, System

PAGES = Path(__file__).parents[2] / "docs" / "extending"
TEXT = "The old captain slept. A falcon sang in the harbour! Nobody came to the grey house. " * 60


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Writes a page's file as the module `added`, and returns the page's line with that module's name."""

    def written(page: str) -> str:
        file, line = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.S)[:2]
        (tmp_path / "added.py").write_text(file)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "added", raising=False)
        return re.sub(r'f?"(?:\{__name__\}|sharedllm\.systems)\.\w+:', '"added:', line)

    return written


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "tale.txt"
    path.write_text(TEXT)
    return path


def test_pages_are_short():
    assert {page.stem for page in PAGES.glob("*.md")} == {"system", "task", "score", "policy", "family"}
    for page in PAGES.glob("*.md"):
        assert len(page.read_text().splitlines()) <= 80, page


def test_a_system(follow, run, text, tmp_path, model_folder, base_folder):
    system = eval(follow("system"), {"System": System})
    SYSTEMS.add(system.name, system, system.about)
    try:
        arguments = ["--data", text, "--model", model_folder, "--base", base_folder, "--lengths", "0,2W", "--cases", 2]
        code, _, err = run("eval", "loss", *arguments, "--system", "first,window", "-o", tmp_path / "out")
        assert code == 0 and "128 tokens, first: loss" in err, err
        setting = TOY.setting(NEW, TOY.batch_tokens)
        timed = make_timed(["first"], TOY, setting, torch.float32, torch.device("cpu"))["first"]
        assert timed.operations(64).total > 0 and type(timed).__name__ == "TimedFirst"
    finally:
        SYSTEMS.remove("first")


def test_a_task(follow, run, text, tmp_path, model_folder, base_folder):
    exec(follow("task"), {"_add": QUESTIONS.add})
    TASKS.add("doors", "sharedllm.evaluation.tasks.asking:asking", name="doors")
    try:
        code, out, err = run(
            "questions", text, "-o", tmp_path / "q.jsonl", "--task", "doors", "--tokens", 64, "--count", 3
        )
        assert code == 0 and "3 doors" in out, err
        arguments = ["--data", text, "--model", model_folder, "--lengths", "4W", "--cases", 1, "--system", "sharedllm"]
        code, _, err = run("eval", "doors", *arguments, "-o", tmp_path / "out")
        assert code == 0 and "doors, tale" in err, err
    finally:
        QUESTIONS.remove("doors")
        TASKS.remove("doors")


def test_a_score(follow):
    exec(follow("score"), {"SCORES": SCORES})
    try:
        model = SharedLLMForCausalLM.from_base(tiny_base("llama"), chunk_size=16, encoding="chunk", lower_layers=2)
        memory = model.read(torch.arange(64)[None], keep_all=True)
        chosen = model.select(memory, torch.tensor([[1, 2]]), budget=16, score="recent")
        assert (chosen.position[0] >= 48).sum() > 8, "the last tokens are kept"
    finally:
        SCORES.remove("recent")


def test_a_policy(follow):
    exec(follow("policy"), {"POLICIES": POLICIES})
    try:
        model = SharedLLMForCausalLM.from_base(
            tiny_base("llama"), chunk_size=64, strides=[16, 8, 1], lower_layers=2, selection="left"
        )
        fine = model.read(torch.arange(64)[None]).position[0]
        assert (fine < 16).sum() > 8 > (fine >= 48).sum(), "the beginning stays fine"
    finally:
        POLICIES.remove("left")


def test_a_family(monkeypatch):
    class ToyConfig(LlamaConfig):
        model_type = "toy"

    class ToyForCausalLM(LlamaForCausalLM):
        config_class = ToyConfig

    (line,) = re.findall(r"```python\n(.*?)```", (PAGES / "family.md").read_text(), re.S)
    monkeypatch.delitem(FAMILIES, "toy", raising=False)
    with pytest.raises(ValueError, match="toy"):
        SharedLLMForCausalLM.from_base(_toy(ToyConfig, ToyForCausalLM), chunk_size=16, lower_layers=2)
    exec(line, {"FAMILIES": FAMILIES, "Family": Family})
    try:
        base = _toy(ToyConfig, ToyForCausalLM)
        model = SharedLLMForCausalLM.from_base(base, chunk_size=16, lower_layers=2)
        ids = torch.arange(20)[None]
        assert torch.equal(model(ids, context_ids=ids).logits, base(ids).logits)
    finally:
        del FAMILIES["toy"]


def _toy(config: type, model: type) -> LlamaForCausalLM:
    AutoConfig.register("toy", config, exist_ok=True)
    AutoModelForCausalLM.register(config, model, exist_ok=True)
    settings = tiny_base("llama").config.to_dict() | {"model_type": "toy"}
    return model(config(**settings)).eval()
