"""Two services over one folder on disk, and a front of replicas in this process. No Ray is started."""

import pytest
from helpers import byte_tokenizer
from replicated import front_of
from served import TEXT, small_model, store_of
from starlette.testclient import TestClient

from sharedllm.serving.memories import Memories
from sharedllm.serving.service import Service
from sharedllm.serving.worker import Worker


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def services(model, tmp_path_factory):
    """Two, over one folder on disk."""
    folder = tmp_path_factory.mktemp("served")
    path = store_of(folder / "notes.memory", model, byte_tokenizer(), foxes=TEXT).folder
    options = {"budget": 60, "score": "bm25"}
    made = [
        Service(model, byte_tokenizer(), "small", Memories([path], folder=folder), Worker(9, 4), **options)
        for _ in range(2)
    ]
    yield made
    for service in made:
        service.worker.stop()


@pytest.fixture
def start(services):
    clients = []

    def begin(**options):
        app, replicas = front_of(services, **options)
        clients.append(TestClient(app).__enter__())
        return clients[-1], replicas

    yield begin
    for client in clients:
        client.__exit__(None, None, None)
