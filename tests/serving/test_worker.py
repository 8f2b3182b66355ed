"""Questions pass a long prompt between two steps of its reading, and nothing of the two answers is mixed."""

import threading
import time

import pytest
from helpers import byte_tokenizer
from served import ASKED, TEXT, clients_of, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


def test_questions_pass_a_long_prompt(model, monkeypatch, tmp_path):
    long = {"prompt": TEXT * 2, "max_tokens": 12, "temperature": 1.0, "seed": 3, "memory": ""}
    short = ASKED | {"memory": "notes", "temperature": 1.0, "seed": 4}
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        client, read = start(), type(model).read
        alone = [
            client.post(path, json=body).json()["choices"]
            for path, body in (("/v1/completions", long), ("/v1/chat/completions", short))
        ]
        answered, done, steps = [], threading.Event(), []

        def slow(self, *arguments, progress=None, **options):
            memory = read(self, *arguments, **options)
            while progress is not None and not done.is_set() and len(steps) < 3000:
                steps.append(client.service.worker.waiting)
                progress(1)
                time.sleep(0.01)
            return memory

        monkeypatch.setattr(type(model), "read", slow)
        first = threading.Thread(target=lambda: answered.append(client.post("/v1/completions", json=long).json()))
        first.start()
        while not steps:
            time.sleep(0.01)
        others = []
        threads = [
            threading.Thread(target=lambda: others.append(client.post("/v1/chat/completions", json=short).json()))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # All are answered while the first is still being read.
        assert [one["choices"] for one in others] == [alone[1]] * 3 and not answered
        done.set()
        first.join()
        assert answered[0]["choices"] == alone[0]
        assert (client.service.worker.running, client.service.worker.waiting) == (0, 0)
