"""Protection against strangers: they can't reach a server by another site's name, fill its memory, or keep connections
open."""

import json
import socket
import time

import pytest
from combined import combined
from helpers import byte_tokenizer
from served import ASKED, TEMPLATE, clients_of, listening, small_model
from uvicorn.protocols.http.h11_impl import H11Protocol

from sharedllm.serving import guard, server
from sharedllm.serving.guard import Hosts
from sharedllm.utils import text_files
from sharedllm.utils.control_tokens import checked
from sharedllm.utils.text import tokenize
from sharedllm.utils.text_files import PIECE, pieces_of


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def serve(model, tmp_path):
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        yield start


@pytest.mark.parametrize(
    ("host", "allowed", "names", "others"),
    [
        ("127.0.0.1", [], ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "localhost."], ["evil.example", "127.0.0.1.evil.example:8000", "10.0.0.7", "localhost:evil", ""]),
        ("127.0.0.1", ["Box.local"], ["box.local:80", "BOX.LOCAL"], ["box.local.evil.example"]),
        ("127.0.0.1", ["*"], ["evil.example"], []),
        ("box", [], ["box:8000", "localhost"], ["evil.example"]),
        ("0.0.0.0", [], ["10.0.0.7:8000", "[fe80::1]:8000", "localhost"], ["evil.example:8000", "box"]),
        ("::", ["box"], ["box:8000", "::1"], ["evil.example"]),
    ],
)  # fmt: skip
def test_hosts(host, allowed, names, others):
    hosts = Hosts(host, allowed)
    assert [name for name in names if name not in hosts] == []
    assert [name for name in others if name in hosts] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/memories"), ("POST", "/v1/chat/completions"), ("DELETE", "/v1/memories/notes/documents/foxes"), ("GET", "/metrics"), ("GET", "/health")],
)  # fmt: skip
def test_another_sites_name_reaches_nothing(serve, method, path):
    client = serve(hosts=Hosts("127.0.0.1"))
    response = client.request(
        method, path, headers={"Host": "evil.example:8000"}, json=ASKED if method == "POST" else None
    )
    assert (
        response.status_code == 421
        and "Host: evil.example:8000 is not served here" in response.json()["error"]["message"]
    )
    memories = client.get("/v1/memories", headers={"Host": "localhost:8000"})
    assert memories.status_code == 200 and memories.json()["data"][0]["documents"][0]["name"] == "foxes"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.0", b"200"),
        (b"GET /health HTTP/1.1\r\nConnection: close", b"400"),
        (b"GET /v1/models HTTP/1.0", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nConnection: close", b"400"),
        (b"GET /v1/models HTTP/1.0\r\nHost: localhost", b"200"),
    ],
)
def test_only_a_monitor_may_name_no_host(serve, sent, status):
    client = serve(hosts=Hosts("127.0.0.1"))
    with listening(client.app, lifespan="off") as number, socket.create_connection(("127.0.0.1", number)) as connection:
        connection.sendall(sent + b"\r\n\r\n")
        assert answer_to(connection).split()[1] == status


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "a" * 60}, {"role": "user", "content": "b" * 60}]},
        {"prompt": "a" * 101},
    ],
)
def test_a_prompt_is_bounded_before_it_is_tokenised(serve, body, monkeypatch):
    client = serve(most_characters=100)
    monkeypatch.setattr("sharedllm.serving.answering.prompt_of", None)
    field, path = ("messages", "chat/completions") if "messages" in body else ("prompt", "completions")
    response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == 413 and response.json()["error"]["param"] == field
    assert "characters, more than 100: shorten it" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("text", "template"), combined(["word " * 30_000, "x" * 150_000, "line\n" * 30_000], [None, TEMPLATE])
)
def test_a_client_that_goes_away_ends_the_tokenising(monkeypatch, text, template):
    monkeypatch.setattr(text_files, "PIECE", 20_000)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise InterruptedError

    from sharedllm.serving.prompting import prompt_of
    from sharedllm.serving.requests import ChatRequest

    begun = time.monotonic()
    with pytest.raises(InterruptedError), checked(check):
        prompt_of(ChatRequest(messages=[{"role": "user", "content": text}]), tokenizer)
    assert len(calls) == 4 and time.monotonic() - begun < 20
    with pytest.raises(InterruptedError), checked(check):
        tokenize(tokenizer, "a")
    tokenize(tokenizer, "a")  # no check is active any more


@pytest.mark.parametrize(
    "text", ["", "a", "a\n" * 500_000, "word " * 400_000, "x" * 2_000_000, "a\n" + "long line " * 200_000 + "\nb"]
)
def test_pieces_make_up_the_text_and_are_bounded(text):
    pieces = pieces_of(text)
    assert "".join(pieces) == text and all(pieces) and max(map(len, pieces), default=0) <= 5 * PIECE + 1


@pytest.mark.parametrize("key", ["hush", "schlüssel", "ключ", "a b"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_keys_of_any_letters(serve, key, scheme):
    client = serve(key=key)
    sent = f"{scheme} {key}".encode()
    assert client.get("/v1/models", headers={b"Authorization": sent}).status_code == 200
    for wrong in (sent[:-1], sent + b"x", scheme.encode(), b"Basic " + key.encode(), key.encode(), b"\xff\xfe"):
        assert client.get("/v1/models", headers={b"Authorization": wrong}).status_code == 401
    if key == "schlüssel":
        assert client.get("/v1/models", headers={b"Authorization": sent.decode().encode("latin-1")}).status_code == 200


def test_localhost_in_capitals_is_this_machine():
    assert server.is_local("LOCALHOST") and server.is_local("::1") and not server.is_local("10.0.0.1")


@pytest.fixture
def port(serve, monkeypatch):
    """The port of a server that waits a quarter of a second for headers, and half a second for bodies."""
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    client = serve()
    protocol = server.careful(server.AutoHTTPProtocol, 0.25)
    with listening(client.app, http=protocol, lifespan="off", timeout_keep_alive=5) as number:
        yield number


def answer_to(connection: socket.socket) -> bytes:
    """Everything received until the server closes the connection."""
    connection.settimeout(10)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n"])
def test_half_open_requests_are_closed(port, sent):
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert answer_to(connection) == b""
    assert 0.2 < time.monotonic() - begun < 5


def test_half_open_requests_after_an_answer_are_closed(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(10)
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"GET /health HT")
        begun = time.monotonic()
        answer_to(connection)
        assert time.monotonic() - begun < 3


def test_headers_that_drip_are_closed(port):
    begun = time.monotonic()

    def drip() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            while time.monotonic() - begun < 10:
                connection.sendall(b"X-A: 1\r\n")
                time.sleep(0.05)

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        drip()
    assert time.monotonic() - begun < 5


def test_a_body_that_does_not_come_is_answered_in_time(port):
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        connection.sendall(head)
        connection.settimeout(10)
        assert b"408" in connection.recv(65536).split(b"\r\n")[0]
    assert 0.4 < time.monotonic() - begun < 8


@pytest.mark.parametrize("protocol", [server.AutoHTTPProtocol, H11Protocol], ids=["installed", "h11"])
def test_more_connections_than_allowed_get_an_error_like_others(serve, protocol):
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        listening(serve().app, http=server.careful(protocol, 5, most=1), lifespan="off") as port,
        socket.create_connection(("127.0.0.1", port)) as first,
    ):
        first.sendall(asked)
        first.settimeout(10)
        assert b"200 OK" in first.recv(65536)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(asked)
            head, body = answer_to(second).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 5" in head.lower()
    error = json.loads(body)["error"]
    assert error["type"] == "server_error" and "are open already: try again in 5 s." in error["message"]


def test_a_body_that_has_not_come_when_the_server_ends_gets_an_error_like_others(serve):
    options = {"http": server.careful(server.AutoHTTPProtocol, 5), "lifespan": "off", "timeout_graceful_shutdown": 1}
    with socket.socket() as connection:
        with listening(serve().app, **options) as port:
            connection.connect(("127.0.0.1", port))
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Content-Length: 99\r\nExpect: 100-continue\r\n\r\n")
            connection.settimeout(10)
            assert b"100 Continue" in connection.recv(65536)
        head, body = answer_to(connection).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and "the server is stopping" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("protocol", [server.AutoHTTPProtocol, H11Protocol], ids=["installed", "h11"])
@pytest.mark.parametrize(
    "sent", [b"no HTTP\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"], ids=["words", "long"]
)
def test_what_is_no_http_gets_an_error_like_others(serve, protocol, sent):
    options = {"http": server.careful(protocol, 5), "lifespan": "off", "h11_max_incomplete_event_size": 2**16}
    with listening(serve().app, **options) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        head, body = answer_to(connection).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/json" in head
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error" and "no request of HTTP" in error["message"]
