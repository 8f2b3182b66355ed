"""Thousands of wrong requests: every answer is well-formed, none is a server error, and the server stays as it was.

Nine of ten go to the application directly, built from valid ones by changing bodies, fields, paths and headers; every
tenth is raw bytes over a socket. Between them a valid request has its answer as before."""

import json
import logging
import random
import socket
import time
from urllib.parse import unquote

import pytest
from fuzzing import ODD, at_most, counts, mutated, run_cases
from helpers import byte_tokenizer
from served import TEMPLATE, clients_of, listening, small_model

from sharedllm.serving.editing import remove_document

CHAT = {"messages": [{"role": "user", "content": "What jumps?"}], "max_tokens": 3, "seed": 1}
FULL = CHAT | {
    "model": "small", "memory": "notes", "budget": 40, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "stream": False, "n": 1,
    "user": "me", "logprobs": True, "top_logprobs": 2, "logit_bias": {"65": 1.0}, "presence_penalty": 0.1, "tool_choice": "none",
    "response_format": {"type": "text"}, "frequency_penalty": 0.0, "explain": False,
}  # fmt: skip
TALK = CHAT | {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Who?", "name": "me"},
    ]
}
SCHEMA = CHAT | {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
    }
}  # fmt: skip
TOOLS = CHAT | {
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
}
PLAIN = {"prompt": "The quick", "max_tokens": 3, "logprobs": 1, "memory": ""}
RESPONSES = {"model": "small", "input": "What jumps?", "max_output_tokens": 3, "instructions": "Be short."}
DOCUMENT = {"name": "extra", "text": "A new line about a lantern.\n"}
VALID = [
    ("POST", "/v1/chat/completions", CHAT), ("POST", "/v1/chat/completions", FULL), ("POST", "/v1/chat/completions", TALK),
    ("POST", "/v1/chat/completions", SCHEMA), ("POST", "/v1/chat/completions", TOOLS),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/v1/completions", PLAIN), ("POST", "/v1/responses", RESPONSES), ("POST", "/v1/responses", RESPONSES | {"stream": True}),
    ("POST", "/v1/memories/notes/documents", DOCUMENT), ("DELETE", "/v1/memories/notes/documents/extra", None),
    ("GET", "/v1/memories/notes/documents/foxes?start=0&end=10", None), ("PUT", "/v1/memories/notes/documents/extra.txt", None),
    ("GET", "/v1/memories", None), ("GET", "/v1/models", None), ("GET", "/v1/models/small", None), ("GET", "/metrics", None),
    ("GET", "/health", None), ("GET", "/v1/explanations/none", None),
]  # fmt: skip
PIECES = [
    "..", "%2e%2e", "%00", "%ff", "%ed%a0%80", "//", ";", "?a=b", "?start=-1", "?start=x&end=1e9", "?end=99999999999999999999", "#",
    "%2f", "é", "a" * 3000, "notes", "documents", "*", "\\", "%25", "[]", "%0d%0a",
]  # fmt: skip
HEADERS = [
    ("content-type", "text/plain"), ("content-type", "application/json; charset=utf-16"), ("content-type", ""), ("content-length", "-1"),
    ("content-length", "99999999999999999999999"), ("content-length", "x"), ("content-encoding", "gzip"), ("host", "evil.example"),
    ("host", ""), ("transfer-encoding", "chunked"), ("authorization", "Bearer \xff"), ("x-request-id", "\x7f"), ("x-request-id", "a" * 500),
    ("accept", "application/xml"), ("range", "bytes=0-"), ("expect", "100-continue"), ("origin", "https://evil.example"), ("cookie", "a=b;" * 500),
    ("upgrade", "websocket"), ("connection", "upgrade"), ("x-a", "b" * 20_000),
]  # fmt: skip
MOST_TOKENS = 40


def changed(rng: random.Random) -> tuple[str, str, bytes, list[tuple[str, str]]]:
    """A valid request with something changed, or, seldom, nothing: method, path, body, headers."""
    method, path, content = rng.choice(VALID)
    headers = [("content-type", "application/json")]
    for _ in range(rng.choice([1, 1, 2, 4])):
        content = mutated(rng, content) if content is not None else rng.choice([None, None, *ODD])
    body = b"" if content is None else json.dumps(bounded(content)).encode()
    match rng.randrange(10):
        case 0:
            body = bytearray(body) or bytearray(b"{")
            body[rng.randrange(len(body))] = rng.randrange(256)
            body = bytes(body)
        case 1:
            body = body[: rng.randrange(len(body) + 1)]
        case 2:
            body = rng.choice(
                [
                    b"[" * 50_000,
                    b"{" * 50_000,
                    rng.randbytes(100),
                    b"null",
                    b'"a"',
                    b"NaN",
                    b"\xef\xbb\xbf{}",
                    body * 2,
                    body.decode().encode("utf-16"),
                ]
            )
        case 3:
            parts = path.split("/")
            parts[rng.randrange(1, len(parts))] = rng.choice(PIECES)
            path = "/".join(parts)
        case 4:
            path += rng.choice(["/", *PIECES])
        case 5:
            method = rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"])
        case 6:
            headers += rng.sample(HEADERS, rng.choice([1, 2]))
        case _:
            pass
    if "foxes" in unquote(path) and method in ("PUT", "DELETE"):
        method = "GET"  # which would be right to take that document away
    return method, "/" + path.lstrip("/"), body, headers


def bounded(content):
    """So that a case is not slow because a valid request asks for much."""
    if isinstance(content, dict):
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if type(content.get(name)) is int and content[name] > MOST_TOKENS:
                content = content | {name: MOST_TOKENS}
        if "messages" in content or "prompt" in content:
            content = {"max_tokens": 3} | content
        elif "input" in content:
            content = {"max_output_tokens": 3} | content
    return content


def check(status: int, kind: str, body: bytes, method: str) -> None:
    """A status that blames the client or nobody, and an error that says what to do."""
    assert status < 500 or status == 501, body[:500]
    if method == "HEAD" or not body:
        return
    if kind.startswith("application/json"):
        content = json.loads(body, parse_constant=pytest.fail)
        if status >= 400:
            assert set(content["error"]) == {"message", "type", "param", "code"} and content["error"]["message"].strip()
            assert "Traceback" not in content["error"]["message"]
    elif kind.startswith("text/event-stream"):
        assert b"server_error" not in body and body.decode()


@pytest.fixture
def client(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    with clients_of(small_model(), tokenizer, tmp_path) as start:
        yield start(most_characters=20_000, most_bytes=200_000, waiting=64)


@counts(few=40, full=10_000)
def test_wrong_requests(client, caplog, count):
    caplog.set_level(logging.ERROR)

    def documents() -> dict[str, str]:
        """Each document's text."""
        listed = client.get("/v1/memories").json()["data"]
        assert [memory["id"] for memory in listed] == ["notes"]
        return {d["name"]: str(d) for d in listed[0]["documents"]}

    def known() -> list:
        answers = [client.post(path, json=content | {"memory": "notes", "budget": 40}).json() for path, content in (
            ("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "The quick", "max_tokens": 3}),
        )]  # fmt: skip
        return [answer["choices"] for answer in answers]

    # Without the document that requests may add.
    expected, foxes = known(), documents()["foxes"]

    def restored() -> None:
        # A change goes on although its client has gone.
        while client.service.worker.running or client.service.worker.waiting:
            time.sleep(0.01)
        for name in documents().keys() - {"foxes"}:
            remove_document(client.service.memories, "notes", name)

    with listening(client.app, lifespan="off") as port:

        def over_the_wire(rng: random.Random, did: list[str]) -> None:
            method, path, body, headers = changed(rng)
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in headers)
            sent = bytearray(head.encode("utf-8", "replace"))
            if rng.random() < 0.6:
                sent += f"Content-Length: {len(body)}\r\n".encode()
            sent += b"\r\n" + body
            if rng.random() < 0.5:
                for _ in range(rng.choice([1, 3])):
                    sent[rng.randrange(len(sent))] = rng.randrange(256)
            did.append(repr(bytes(sent[:300])))
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.settimeout(20)
                received = b""
                try:
                    connection.sendall(bytes(sent))
                    connection.shutdown(socket.SHUT_WR)
                    while part := connection.recv(65536):
                        received += part
                except (ConnectionResetError, BrokenPipeError):
                    pass
            if received:
                assert received.startswith(b"HTTP/1.1 ")
                assert int(received[9:12]) < 500, received[:500]

        def case(rng: random.Random, did: list[str]) -> None:
            caplog.clear()
            with at_most(60):
                if rng.random() < 0.1:
                    over_the_wire(rng, did)
                else:
                    method, path, body, headers = changed(rng)
                    did += [method, path[:200], repr(body[:700]), str(headers)[:300]]
                    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
                    response = client.request(method, path, content=body, headers=sent)
                    check(response.status_code, response.headers.get("content-type", ""), response.content, method)
            assert not caplog.records, caplog.text
            if rng.random() < 0.03:
                restored()
                assert documents() == {"foxes": foxes}
                assert known() == expected, "a valid request has another answer than before"

        run_cases("wrong requests", count, case)
    restored()
    assert documents() == {"foxes": foxes} and known() == expected
