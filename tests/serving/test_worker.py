"""Questions pass a long prompt between two steps of its reading, and nothing of the two answers is mixed."""

import threading
import time

import pytest
from helpers import byte_tokenizer
from served import ASKED, TEXT, clients_of, small_model

from sharedllm.serving import answering


@pytest.fixture(scope="module")
def model():
    return small_model()


def pauses(steps: list[int], done: threading.Event, client, progress) -> None:
    """Reading that takes until `done`."""
    while not done.is_set() and len(steps) < 3000:
        steps.append(client.service.worker.waiting)
        progress(1)
        time.sleep(0.01)


def passed(client, first: dict, path: str, steps: list[int], done: threading.Event) -> tuple[dict, list[dict]]:
    """The answer to a request that pauses until three questions are answered, and these answers."""
    short, answered, others = ASKED | {"memory": "notes", "temperature": 1.0, "seed": 4}, [], []
    slow = threading.Thread(target=lambda: answered.append(client.post(path, json=first).json()))
    slow.start()
    while not steps:
        time.sleep(0.01)
    threads = [
        threading.Thread(target=lambda: others.append(client.post("/v1/chat/completions", json=short).json()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not answered, "all others are answered while the first is still being read"
    done.set()
    slow.join()
    assert (client.service.worker.running, client.service.worker.waiting) == (0, 0)
    assert others == [others[0] | {"id": other["id"], "created": other["created"]} for other in others]
    return answered[0], others


def test_questions_pass_a_long_prompt(model, monkeypatch, tmp_path):
    long = {"prompt": TEXT * 2, "max_tokens": 12, "temperature": 1.0, "seed": 3, "memory": ""}
    short = ASKED | {"memory": "notes", "temperature": 1.0, "seed": 4}
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        client, read = start(), type(model).read
        alone = [
            client.post(path, json=body).json()["choices"]
            for path, body in (("/v1/completions", long), ("/v1/chat/completions", short))
        ]
        done, steps = threading.Event(), []

        def slow(self, *arguments, progress=None, **options):
            memory = read(self, *arguments, **options)
            if progress is not None:
                pauses(steps, done, client, progress)
            return memory

        monkeypatch.setattr(type(model), "read", slow)
        answered, others = passed(client, long, "/v1/completions", steps, done)
        assert answered["choices"] == alone[0] and others[0]["choices"] == alone[1]


def test_questions_pass_one_that_compares_meanings(model, monkeypatch, tmp_path):
    """What is read for it is read step by step."""
    asked = ASKED | {"memory": "notes", "temperature": 1.0, "seed": 3}
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        client, choose = start(), answering.choose
        alone = client.post("/v1/chat/completions", json=asked).json()["choices"]
        done, steps = threading.Event(), []

        def slow(*arguments, progress, **options):
            chosen = choose(*arguments, progress=progress, **options)
            if not steps:
                pauses(steps, done, client, progress)
            return chosen

        monkeypatch.setattr(answering, "choose", slow)
        answered, others = passed(client, asked, "/v1/chat/completions", steps, done)
        assert answered["choices"] == alone and others[0]["choices"] != alone
