"""What tests of stores share: a model, and blocks so small that short texts have several."""

import pytest
from stores import model_of

from sharedllm.store import writer


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_TOKENS", 32)
