"""A small model behind a server, for server tests."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import uvicorn
from helpers import tiny_base, tiny_shared
from starlette.testclient import TestClient

from sharedllm.cli.loading import tokenizer_fingerprint
from sharedllm.documents.apart import Text
from sharedllm.documents.opening import open_document
from sharedllm.serving.app import Service, application
from sharedllm.serving.memories import Memories
from sharedllm.serving.worker import Worker
from sharedllm.store import MemoryStore
from sharedllm.store.writer import writing

TEXT = "".join(f"Line {i}: the quick brown fox jumps over the lazy dog.\n" for i in range(8))
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
)
# A template that takes tools and writes calls as Hermes' and Qwen's do.
TOOLS_TEMPLATE = (
    "{% if tools %}[tools]{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
ASKED = {"messages": [{"role": "user", "content": "What jumps?"}], "max_tokens": 8, "memory": ""}


@cache
def small_model():
    """Of two layers, not four: what is tested is what is around it. All tests of a process share it, so none changes it."""
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256, num_hidden_layers=2)
    return tiny_shared("llama", base=base, lower_layers=1, window=128, injection="joint", encoding="chunk")


NOTES: dict[tuple, dict[Path, bytes]] = {}


def notes_of(folder, model, tokenizer) -> Path:
    """A store of `TEXT`, which each process reads once for a model and a tokenizer, and then copies."""
    key, store = (model, tokenizer_fingerprint(tokenizer)), folder / "notes.memory"
    if key in NOTES:
        (store / "blocks").mkdir(parents=True)
        for path, content in NOTES[key].items():
            (store / path).write_bytes(content)
    else:
        store_of(store, model, tokenizer, foxes=TEXT)
        NOTES[key] = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return store


def store_of(folder, model, tokenizer, **documents: str) -> MemoryStore:
    with writing(folder) as writer:
        writer.begin(model, tokenizer_fingerprint(tokenizer))
        for name, text in documents.items():
            writer.read(model, tokenizer, name, [text])
        writer.commit()
    return MemoryStore.open(folder)


@contextmanager
def clients_of(model, tokenizer, folder):
    """Makes clients of a server with the memory "notes"; all servers are stopped at the end."""
    clients = []

    def start(**options) -> TestClient:
        makes = options.pop("makes", False)
        worker = Worker(options.pop("waiting", 4), options.pop("rows", 4))
        store = folder / "notes.memory"
        store = store if store.exists() else notes_of(folder, model, tokenizer)
        settings = {"tokenizer": tokenizer, "budget": 60, "score": "bm25"} | options
        service = Service(
            model,
            settings.pop("tokenizer"),
            "small",
            Memories([store], folder=folder if makes else None),
            worker,
            **settings,
        )
        client = TestClient(application(service))
        client.service = service
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@contextmanager
def listening(app, **options):
    """An application on a free port of this machine; yields the port."""
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", **options))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[bound])))
        thread.start()
        while not running.started:
            time.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join()


class OpenedHere:
    """In place of `Apart`: a document that this process opens, which saves the start of another. `test_uploads` starts them."""

    def __init__(self, path: Path):
        self.path = path

    def result(self) -> Text:
        opened = open_document(str(self.path))
        return Text(opened.text(), opened.origin, opened.read_as)

    def stop(self) -> None:
        pass


def streamed(response) -> list[dict]:
    """The events of a stream."""
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
