"""What a replica is made of: routing, leases of memories, the application that is played in it."""

import asyncio
import json

import pytest
from served import ASKED, TEXT

from sharedllm.serving.identity import Identity
from sharedllm.serving.memories import Memories
from sharedllm.serving.replicas.leases import Leases
from sharedllm.serving.replicas.played import Asked, played
from sharedllm.serving.replicas.played import joined as joined_messages
from sharedllm.serving.replicas.routing import memory_named

CHAT = "/v1/chat/completions"
READ = ASKED | {"memory": "notes", "budget": 60}
SAMPLED = READ | {"temperature": 1.5, "max_tokens": 12}


def test_a_memory_that_was_opened_without_a_lease_is_let_go(services):
    memories = Memories([services[0].memories["notes"].path], closed=True)
    leases = Leases(memories)
    lease = leases.take("notes")
    leases.asked("notes")
    assert not memories["notes"].closed, "it is leased"
    del lease  # Ray Serve takes it back while a request waits
    assert memories["notes"].closed and not leases.names
    memories.current("notes")  # the request begins
    leases.asked("notes")
    assert memories["notes"].closed
    leases.asked("")


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, {"memory": "a", "model": "small:b"}, "a"),
        (CHAT, {"memory": "", "model": "small:b"}, ""),
        (CHAT, {"memory": None, "model": "small:b"}, "b"),
        ("/v1/responses", {"model": "small:b"}, "b"),
        (CHAT, {"model": "small"}, ""),
        (CHAT, {"model": ["small:b"], "memory": 3}, ""),
        (CHAT, [1], ""),
        (CHAT, "no JSON", ""),
        ("/v1/memories/a/documents/x/y", {"memory": "b"}, "a"),
        ("/v1/memories", {"name": "a"}, ""),
    ],
)
def test_the_memory_that_a_request_names(path, body, named):
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert memory_named(path, content, "small") == named


def test_secrets_do_not_reach_replicas():
    headers = [(b"Authorization", b"Bearer hush"), (b"host", b"x"), (b"accept", b"*/*"), (b"cookie", b"a")]
    asked = Asked.of({"method": "GET", "path": "/", "query_string": b"", "headers": headers}, b"")
    assert asked.headers == ((b"accept", b"*/*"),)


def test_an_application_that_fails_or_is_left():
    ended = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/fails":
            raise RuntimeError("no")
        assert (await receive())["type"] == "http.disconnect"
        ended.append(scope["path"])

    async def left(path: str) -> None:
        said = played(app, Asked("GET", path, b"", (), b"", Identity()))
        assert (await anext(said))[0]["status"] == 200
        if path == "/fails":
            with pytest.raises(RuntimeError, match="no"):
                await anext(said)
        await said.aclose()

    asyncio.run(left("/fails"))
    asyncio.run(left("/left"))
    assert ended == ["/left"]


def test_parts_that_follow_each_other_are_sent_as_one():
    part = {"type": "http.response.body", "body": b"a", "more_body": True}
    start, end = {"type": "http.response.start"}, {"type": "http.response.body"}
    said = joined_messages([start, part, part, end])
    assert said == [start, {"type": "http.response.body", "body": b"aa", "more_body": False}]


def test_a_memory_is_let_go_and_opened_again(services, model):
    path = services[0].memories["notes"].path
    memories = Memories([path], closed=True)
    (listed,) = services[0].memories.listed()
    assert memories["notes"].closed and memories.listed() == [listed | {"removable": False}], "it has no folder"
    memories.refresh()
    assert memories["notes"].closed, "looking does not open it"
    assert memories.current("notes").tokens >= len(TEXT) and not memories["notes"].closed
    memories.close("notes")
    assert memories["notes"].closed and memories.meant(None) == "notes"
    memories.close("none")
