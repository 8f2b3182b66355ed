"""Sanity checks of the harness with the bundled models on real text: impossible results must not be measured."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.demo.sources import library_text
from sharedllm.evaluation.corpus import Documents
from sharedllm.evaluation.tasks import TASKS
from sharedllm.evaluation.tasks.base import Setting, score_texts
from sharedllm.systems.evaluated import make_evaluated

pytestmark = pytest.mark.slow

WINDOW, LONGEST = 512, 4 * 512
METHODS = ("window", "sharedllm", "streaming", "bm25", "full")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model("base"))


@pytest.fixture(scope="module")
def models():
    shared = SharedLLMForCausalLM.from_pretrained(bundled_model("tiny"), dtype=torch.float32).eval()
    return shared, AutoModelForCausalLM.from_pretrained(bundled_model("base"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def losses(tokenizer, models):
    """For every text: task → system → length → (ends of the targets, loss)."""
    ids = [part.numpy() for part in library_text(tokenizer, 12_000)[0].split(6000)[:2]]
    documents = Documents("library", [f"part {i}" for i in range(2)], [len(i) for i in ids], "0", ids)
    setting = Setting(tokenizer=tokenizer, window=WINDOW, longest=LONGEST, cases=2)
    found = {}
    for task_name, names in {"loss": METHODS, "loss-other": ("sharedllm",)}.items():
        task = TASKS.find(task_name)
        for name in names:
            system = make_evaluated(name, *models, tokenizer, WINDOW)
            for length in (0, WINDOW, LONGEST):
                scored = list(score_texts(system, task.texts(documents, length, setting), 16_384))
                found[task_name, name, length] = (
                    [(text.label["document"], text.label["end"], text.targets) for text, _ in scored],
                    np.array([task.values(text, scores)["loss"] for text, scores in scored]),
                )
    return found


def test_every_cell_counts_the_same_targets(losses):
    ends = [labels for labels, _ in losses.values()]
    assert len(ends[0]) == 4 and all(labels == ends[0] for labels in ends)


def test_the_base_is_flat_in_what_it_cannot_see(losses):
    at_window = losses["loss", "window", WINDOW][1]
    np.testing.assert_allclose(losses["loss", "window", LONGEST][1], at_window, atol=1e-4)
    assert at_window.mean() < losses["loss", "window", 0][1].mean(), "the text that it sees helps"


def test_no_system_differs_from_the_base_without_a_far_context(losses):
    """For systems that equal the untrained base; ours was trained, so its loss is close, not equal."""
    for name in ("streaming", "bm25", "full"):
        np.testing.assert_allclose(losses["loss", name, 0][1], losses["loss", "window", 0][1], atol=1e-4)


def test_another_document_is_never_better(losses):
    """Beyond the window; within it both have the same texts."""
    own, other = (
        {n: found for (t, m, n), (_, found) in losses.items() if (t, m) == (task, "sharedllm")}
        for task in ("loss", "loss-other")
    )
    np.testing.assert_allclose(own[0], other[0], atol=1e-5)
    assert own[LONGEST].mean() < other[LONGEST].mean()
    assert not np.allclose(own[LONGEST], other[LONGEST], atol=1e-3)
