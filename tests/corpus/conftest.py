"""What tests of corpora share: a random model on disk, and short blocks."""

import pytest
from everywhere import loaded_once
from stores import TOKENIZER, model_of

from sharedllm.store import writer


@pytest.fixture(scope="session")
def model():
    return model_of(selection_heads=[[0, 1, 0.5], [1, 2, 0.3]])


@pytest.fixture(scope="session")
def corpus_model(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "corpus"
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def models_are_loaded_once(monkeypatch):
    monkeypatch.setattr("sharedllm.loading.load_model", loaded_once)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_TOKENS", 64)
