"""Every default of a question is decided in one place."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import sharedllm
from sharedllm.scoring import CHAT_SCORES, SCORES
from sharedllm.scoring.defaults import default_budget, default_score


@pytest.mark.parametrize(
    ("injection", "heads", "meaning", "encoder", "score", "chat", "budget"),
    [
        ("cross", None, None, None, "focus", "bm25", 4096),
        ("joint", [[1, 2, 0.5]], None, None, "focus", "attention", 4096),
        ("deep", None, None, None, "bm25", "bm25", 512),
        ("deep", None, 3, None, "hybrid", "hybrid", 512),
        ("deep", [[1, 2, 0.5]], None, None, "hybrid", "hybrid", 512),
        ("deep", None, None, {"pooling": "mean"}, "hybrid", "hybrid", 512),
    ],
)
def test_by_the_way_a_model_reads(injection, heads, meaning, encoder, score, chat, budget):
    config = SimpleNamespace(
        injection=injection, selection_heads=heads, meaning_layers=meaning, sentence_encoder=encoder, window=4096
    )
    assert (default_score(config), default_score(config, chat=True), default_budget(config)) == (score, chat, budget)
    assert {score, chat} <= set(SCORES)


def test_a_small_window_still_gets_something():
    config = SimpleNamespace(injection="deep", window=3)
    assert default_budget(config) == 1


def test_help_names_the_scores_of_chats():
    assert {name for name in SCORES if re.search(rf"\b{name}\b", CHAT_SCORES)} == {"attention", "bm25"}


def test_no_other_file_decides():
    package = Path(sharedllm.__file__).parent
    found = [p.name for p in package.rglob("*.py") if re.search(r"def default_(score|ranking|budget)\b", p.read_text())]
    assert found == ["defaults.py"]
