"""Requests whose replica dies, as a test says: they go on at another one. No Ray is started."""

import json

import pytest
from combined import combined
from helpers import byte_tokenizer
from replicated import front_of
from served import ASKED, TOOLS_TEMPLATE, streamed
from starlette.testclient import TestClient

from sharedllm.serving.identity import Identity
from sharedllm.serving.memories import Memories
from sharedllm.serving.replicas.asking import ATTEMPTS
from sharedllm.serving.replicas.routing import is_list, repeatable
from sharedllm.serving.service import Service
from sharedllm.serving.worker import Worker

CHAT = "/v1/chat/completions"
READ = ASKED | {"memory": "notes", "budget": 60}
SAMPLED = READ | {"temperature": 1.5, "max_tokens": 12}


@pytest.mark.parametrize(("dies", "body"), combined([[0], [0, 0]], [READ, SAMPLED, SAMPLED | {"n": 2}]))
def test_a_request_is_asked_again(start, dies, body):
    client, replicas = start()
    replicas.deaths = list(dies)
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200 and len(replicas.memories) == 1 + len(dies)
    assert replicas.memories[0] == "notes" and answer.json()["choices"][0]["message"]["content"] is not None


@pytest.mark.parametrize(
    ("path", "after", "sampled"),
    combined([CHAT, "/v1/completions", "/v1/responses"], [1, 300, 900], [{}, {"temperature": 1.5}]),
)
def test_a_stream_goes_on_at_another_replica(start, path, after, sampled):
    client, replicas = start()
    body = {"stream": True, "memory": "notes"} | sampled
    asked = {"messages": ASKED["messages"], "max_tokens": 12}
    if path != CHAT:
        asked = {"prompt": "jumps", "max_tokens": 12}
    if path == "/v1/responses":
        asked = {"input": "What jumps?", "max_output_tokens": 12}
    replicas.deaths = [after]
    said = client.post(path, json=asked | body)
    assert said.status_code == 200 and len(replicas.memories) == 2
    events = [json.loads(line[6:]) for line in said.text.split("\n") if line.startswith("data: {")]
    assert not any("error" in event and event["error"] for event in events), events
    if path == "/v1/responses":
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] in ("response.completed", "response.incomplete")
    else:
        assert said.text.endswith("data: [DONE]\n\n") and len({event["id"] for event in events}) == 1
        assert events[-1]["choices"][0]["finish_reason"]


def test_a_call_of_a_tool_goes_on_at_another_replica(model):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    service = Service(model, tokenizer, "small", Memories([]), Worker(9, 4), budget=60)
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": nothing}}
    asked = ASKED | {"tools": [tool], "tool_choice": "required", "max_tokens": 200, "n": 2, "stream": True}
    app, replicas = front_of([service, service])
    with TestClient(app) as client:
        # It dies with all of the answer but its end.
        replicas.deaths = [len(client.post(CHAT, json=asked).content) - 10]
        events = streamed(client.post(CHAT, json=asked))
    assert len(replicas.memories) == 3 and not any("error" in event for event in events), events[-1]
    calls = [one["id"] for e in events for choice in e["choices"] for one in choice["delta"].get("tool_calls", [])]
    assert len(set(calls)) == 2 and all(name.startswith("call_") for name in calls)


def test_a_stream_that_another_replica_writes_otherwise_ends_in_an_error(start, services, monkeypatch):
    client, replicas = start()
    for path, asked in ((CHAT, READ), ("/v1/responses", {"input": "What jumps?"})):
        with monkeypatch.context() as patch:
            count = iter(range(100))
            patch.setattr(Identity, "named", property(lambda self: {"id": f"other{next(count)}", "created": 0}))  # noqa: B023
            replicas.deaths = [600]
            said = client.post(path, json=asked | {"stream": True})
        last = [json.loads(line[6:]) for line in said.text.split("\n") if line.startswith("data: {")][-1]
        message = last["message"] if path == "/v1/responses" else last["error"]["message"]
        assert "another one writes it otherwise" in message
        if path == CHAT:
            assert said.text.endswith("data: [DONE]\n\n")
        else:
            assert (last["type"], last["sequence_number"]) == ("error", said.text.count("\n\n") - 1)


def test_a_request_that_kills_replicas_is_given_up(start):
    client, replicas = start()
    replicas.deaths = [0] * 9
    said = client.post(CHAT, json=READ)
    assert said.status_code == 503 and f"{ATTEMPTS} replicas died" in said.text and len(replicas.deaths) == 9 - ATTEMPTS
    replicas.deaths = [0] * 9
    said = client.post(CHAT, json=READ | {"stream": True})
    assert said.status_code == 503, "nothing was sent yet"
    replicas.deaths = [600] * 9
    events = streamed(client.post(CHAT, json=READ | {"stream": True}))
    assert "replicas died" in events[-1]["error"]["message"]


def test_a_change_is_not_asked_twice(start):
    client, replicas = start()
    replicas.deaths = [0]
    said = client.put("/v1/memories/notes/documents/more", content=b"Some words.")
    assert said.status_code == 503 and "look whether it was done" in said.text and replicas.memories == ["notes"]


def test_what_may_be_asked_twice_and_what_all_can_say():
    assert all(repeatable("POST", path) for path in (CHAT, "/v1/completions", "/v1/responses"))
    assert repeatable("GET", "/v1/memories/a/documents/b")
    assert not any(repeatable(method, "/v1/memories/a/documents/b") for method in ("PUT", "POST", "DELETE"))
    assert is_list("GET", "/v1/models") and is_list("GET", "/v1/models/a:b") and is_list("GET", "/v1/memories")
    assert not is_list("POST", "/v1/memories") and not is_list("GET", "/v1/memories/a/documents/b")
