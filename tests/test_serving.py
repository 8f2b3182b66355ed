"""The server: OpenAI's shapes, answers that are the model's own, memories, limits, and an end in good order."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from helpers import byte_tokenizer, tiny_base, tiny_shared
from starlette.testclient import TestClient

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.asking import ask
from sharedllm.bundled import load_tokenizer
from sharedllm.cli.common import tokenizer_fingerprint
from sharedllm.data.synthetic import make_needles
from sharedllm.demo.sources import library_text
from sharedllm.serving import server
from sharedllm.serving.app import Service, application
from sharedllm.serving.errors import ServingError
from sharedllm.serving.memories import Memories
from sharedllm.serving.worker import Cancelled, Job, Worker
from sharedllm.store import MemoryStore
from sharedllm.store.edit import writing
from sharedllm.text import tokenize
from sharedllm.writing import Decoder, Writing

TEXT = "".join(f"Line {i}: the quick brown fox jumps over the lazy dog.\n" for i in range(8))
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
)
ASKED = {"messages": [{"role": "user", "content": "What jumps?"}], "max_tokens": 20}


@pytest.fixture(scope="module")
def model():
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    return tiny_shared("llama", base=base, window=128, injection="joint", encoding="chunk")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def store_of(folder, model, tokenizer, **documents: str) -> MemoryStore:
    with writing(folder) as writer:
        writer.begin(model, tokenizer_fingerprint(tokenizer))
        for name, text in documents.items():
            writer.read(model, tokenizer, name, [text])
        writer.commit()
    return MemoryStore.open(folder)


@pytest.fixture
def serve(model, tokenizer, tmp_path):
    """Makes a client of a server with the memory "notes"; all are stopped in the end."""
    clients = []

    def start(**options) -> TestClient:
        waiting = options.pop("waiting", 4)
        stores = [store_of(tmp_path / "notes.memory", model, tokenizer, foxes=TEXT)]
        settings = {"tokenizer": tokenizer, "budget": 60, "score": "bm25"} | options
        service = Service(model, settings.pop("tokenizer"), "small", Memories(stores), Worker(waiting), **settings)
        client = TestClient(application(service))
        client.service = service
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def streamed(response) -> list[dict]:
    """The events of a stream."""
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_what_there_is(serve):
    client = serve()
    assert client.get("/health").json() == {"status": "ok"}
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["small"]
    (notes,) = client.get("/v1/memories").json()["data"]
    assert (notes["id"], notes["tokens"], notes["documents"][0]["name"]) == ("notes", len(TEXT), "foxes")
    assert notes["bytes"] > len(TEXT)


@pytest.mark.parametrize("length", [20, 128, 700])
def test_a_completion_is_what_the_model_generates(serve, model, tokenizer, length):
    """However long the prompt is, and beyond the window."""
    prompt = (TEXT * 2)[:length]
    ids = tokenize(tokenizer, prompt)
    client = serve()
    for new in (30, 200):
        expected = model.generate(ids, max_new_tokens=new, do_sample=False)[0, ids.shape[1] :]
        said = client.post("/v1/completions", json={"model": "small", "prompt": prompt, "max_tokens": new}).json()
        (choice,) = said["choices"]
        assert (choice["text"], choice["finish_reason"]) == (tokenizer.decode(expected), "length")
        assert said["usage"] == {"prompt_tokens": length, "completion_tokens": new, "total_tokens": length + new}
        assert (said["object"], said["model"], "sharedllm" in said) == ("text_completion", "small", False)


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("more", [{}, {"memory": "notes", "budget": 40}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}])
def test_streaming_equals_not_streaming(serve, template, more):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    client = serve(tokenizer=tokenizer)
    turns = [{"role": "system", "content": "Be brief."}, *ASKED["messages"], {"role": "assistant", "content": "A fox."}]
    turns.append({"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "quick?"}]})
    body = {"messages": turns, "max_completion_tokens": 40, **more}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert client.post("/v1/chat/completions", json=body).json()["choices"] == whole["choices"]
    events = streamed(
        client.post("/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}})
    )
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert said == whole["choices"][0]["message"]["content"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], whole["usage"])
    assert events[-2].get("sharedllm") == whole.get("sharedllm")
    if "memory" in more:
        assert whole["sharedllm"]["read_tokens"] <= 40 == whole["sharedllm"]["budget"]
        for source in whole["sharedllm"]["sources"]:
            start, end = source["characters"]
            assert source["document"] == "foxes" and TEXT[start:end] == source["text"] != ""
    if template is None:
        form = "Be brief.\n\nQuestion: What jumps?\nAnswer: A fox.\nQuestion: Is it quick?\nAnswer:"
    else:
        form = "[system]Be brief.\n[user]What jumps?\n[assistant]A fox.\n[user]Is it quick?\n[bot]"
    assert whole["usage"]["prompt_tokens"] == len(form)


def test_a_long_prompt_and_a_long_answer_over_a_memory(serve, model, tokenizer):
    """What the window can't hold goes behind what was selected, as `generate` would do by itself."""
    client = serve()
    client.post("/v1/memories/notes/documents", json={"name": "owls", "text": "The night owl is called Mina.\n" * 3})
    turns = [{"role": "system", "content": TEXT[:333]}, {"role": "user", "content": "Who is called Mina?"}]
    body = {"messages": turns, "max_tokens": 300, "memory": "notes", "budget": 50, "stop": "\n"}
    said = client.post("/v1/chat/completions", json=body).json()
    store, question = client.service.memories["notes"].store, "\nQuestion: Who is called Mina?\nAnswer:"
    memory = model.select(store, tokenize(tokenizer, question), budget=50, score="bm25")
    ids = tokenize(tokenizer, f"{TEXT[:333]}\n{question}")
    expected = model.generate(ids, memory=memory, max_new_tokens=300, do_sample=False)[0, ids.shape[1] :]
    answered = tokenizer.decode(expected).lstrip().split("\n")[0]
    assert said["choices"][0]["message"]["content"] == answered != ""
    assert said["usage"]["prompt_tokens"] == ids.shape[1]


def test_a_seed_repeats_and_none_does_not(serve):
    client = serve()

    def text(**more) -> str:
        body = {"prompt": "The fox", "max_tokens": 30, "temperature": 1.5, **more}
        return client.post("/v1/completions", json=body).json()["choices"][0]["text"]

    assert text(seed=3) == text(seed=3) != text(seed=4)
    assert text() != text()


def test_stops(serve):
    client = serve()
    body = {"prompt": TEXT[:100], "max_tokens": 60}
    free = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    stop = free[20:23]
    for stream in (False, True):
        response = client.post("/v1/completions", json=body | {"stop": [stop, "never said"], "stream": stream})
        if stream:
            events = streamed(response)
            text, finish = (
                "".join(e["choices"][0]["text"] for e in events),
                events[-1]["choices"][0]["finish_reason"],
            )
        else:
            choice = response.json()["choices"][0]
            text, finish = choice["text"], choice["finish_reason"]
        assert (text, finish) == (free[: free.index(stop)], "stop")


def test_pieces_are_the_text():
    """Characters of several tokens come whole; what may begin a stop is held back; broken ones do not block."""
    tokenizer = byte_tokenizer()
    text = "naïve — 日本語 🦊 fox\n and more END not END"
    for stops, expected in ((["END"], text[: text.index("END")]), (["日本x"], text), (["🦊", "語"], "naïve — 日本")):
        pieces = []
        written = Writing(tokenizer, pieces.append, stops=stops)
        for token in tokenizer(text).input_ids:
            written.add(token)
            assert "\ufffd" not in written.text and expected.startswith(written.text)
        assert written.finish() == expected == "".join(pieces)
        assert written.stopped == (expected != text) and len(pieces) > 5
    line = Writing(tokenizer, one_line=True, strip=True)
    for token in tokenizer(" \n A fox.\nAnd").input_ids:
        line.add(token)
    assert (line.finish(), line.stopped) == ("A fox.", True)
    decoder = Decoder(tokenizer)
    broken = tokenizer("é").input_ids[:1] * 30
    assert any(decoder.add(token) for token in broken)


def test_the_needle_is_among_the_sources(tmp_path):
    model = SharedLLMForCausalLM.from_pretrained(bundled_model(), dtype="float32").eval()
    tokenizer = load_tokenizer("tiny")
    needle = make_needles(random.Random(0), 1, "test")[0]
    filler = tokenizer.decode(library_text(tokenizer, 3000)[0, :3000])
    text = f"{filler[:4000]}\n{needle.statement}\n{filler[4000:]}"
    store = store_of(tmp_path / "facts.memory", model, tokenizer, code=text)
    service = Service(model, tokenizer, "tiny", Memories([store]), Worker(1), budget=256, score="hybrid")
    question = f"What is the secret code of the {needle.key}?"
    with TestClient(application(service)) as client:
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 32, "memory": "facts"}
        said = client.post("/v1/chat/completions", json=body).json()
    expected = ask(model, tokenizer, store, question, budget=256, score="hybrid", max_new_tokens=32)
    assert said["choices"][0]["message"]["content"].strip() == expected.text
    assert said["sharedllm"]["sources"] == expected.sources
    assert any(needle.answer in source["text"] for source in expected.sources)


@pytest.mark.parametrize(
    ("change", "status", "field", "message"),
    [
        ({"n": 2}, 400, "n", "n=2 is not accepted"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"temperature": -1}, 400, "temperature", "temperature=-1"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"stop": ["a", ""]}, 400, "stop", "none of them empty"),
        ({"tools": []}, 400, "tools", "leave it out"),
        ({"presence_penalty": 1}, 400, "presence_penalty", "presence_penalty=1"),
        ({"model": "gpt"}, 404, "model", "use 'small'"),
        ({"memory": "../notes"}, 404, "memory", "there are notes"),
        ({"budget": 5}, 400, "budget", "name one in memory"),
        ({"memory": "notes", "budget": 0}, 400, "budget", "budget=0"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "'tool' is not accepted"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "end with a question"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "end with a question"),
        ({"messages": [{"role": "user", "content": "w" * 200}], "memory": "notes"}, 400, "messages", "window=128"),
    ],
)
def test_bad_requests(serve, change, status, field, message):
    client = serve()
    for stream in (False, True):
        response = client.post("/v1/chat/completions", json=ASKED | {"stream": stream} | change)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, field)
        assert message in error["message"] and error["type"] == "invalid_request_error"
    assert client.post("/v1/chat/completions", json=ASKED).status_code == 200


def test_bad_bodies(serve):
    client = serve(most_bytes=1000)
    json_type = {"Content-Type": "application/json"}
    for arguments, status, message in (
        ({"content": b"{", "headers": json_type}, 400, "no JSON object"),
        ({"content": b"[1]", "headers": json_type}, 400, "no JSON object"),
        ({"content": b'{"prompt": "x"}', "headers": {"Content-Type": "text/plain"}}, 400, "no JSON object"),
        ({"json": {}}, 400, "prompt is missing"),
        ({"json": {"prompt": "x" * 2000}}, 413, "more than 1,000 bytes"),
        ({"content": (b"x" * 600 for _ in range(3)), "headers": json_type}, 413, "more than 1,000 bytes"),
    ):
        response = client.post("/v1/completions", **arguments)
        assert response.status_code == status and message in response.json()["error"]["message"], response.text
    assert client.get("/v1/nothing").json()["error"]["message"].startswith("GET /v1/nothing")
    assert client.get("/v1/completions").status_code == 405


def test_requests_are_named_and_keys_asked_for(serve):
    client = serve(key="hush")
    assert client.get("/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "hush"}):
        response = client.post("/v1/chat/completions", json=ASKED, headers=headers)
        assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
    assert client.get("/metrics").status_code == 401
    headers = {"Authorization": "Bearer hush", "X-Request-ID": "mine"}
    response = client.post("/v1/chat/completions", json=ASKED, headers=headers)
    assert (response.status_code, response.headers["x-request-id"]) == (200, "mine")
    made = {client.get("/health", headers={"X-Request-ID": "x" * n}).headers["x-request-id"] for n in (0, 200)}
    assert len(made) == 2 and all(len(name) == 32 for name in made)
    assert "access-control-allow-origin" not in response.headers


def test_documents_come_and_go(serve, model, tokenizer, tmp_path):
    client = serve()
    url, new = "/v1/memories/notes/documents", {"name": "../a/owls", "text": "The night owl is called Mina.\n" * 3}
    added = client.post(url, json=new).json()
    assert [d["name"] for d in added["documents"]] == ["foxes", "../a/owls"]
    assert added["tokens"] == len(TEXT) + len(new["text"]) and client.get("/v1/memories").json()["data"] == [added]
    body = ASKED | {"memory": "notes", "messages": [{"role": "user", "content": "night owl Mina"}]}
    sources = client.post("/v1/chat/completions", json=body).json()["sharedllm"]["sources"]
    assert "Mina" in sources[0]["text"] and sources[0]["document"] == "../a/owls"
    grown = client.post(url, json=new | {"text": new["text"] + "It sleeps."}).json()
    assert grown["documents"][1]["characters"] == len(new["text"]) + len("It sleeps.")
    other = client.post(url, json=new | {"text": "Another text."})
    assert other.status_code == 400 and "does not begin with" in other.json()["error"]["message"]
    for text in ("", " \n"):
        assert client.post(url, json={"name": "empty", "text": text}).json()["error"]["param"] == "text"
    with writing(tmp_path / "notes.memory"):
        busy = client.post(url, json=new)
    assert busy.status_code == 409 and "another process" in busy.json()["error"]["message"]
    for name in ("..%2Fa%2Fowls", "foxes"):
        assert client.delete(f"{url}/{name}").status_code == 200
        assert client.delete(f"{url}/{name}").status_code == 404
    assert client.delete("/v1/memories/other/documents/foxes").status_code == 404
    assert client.post("/v1/memories/other/documents", json=new).status_code == 404
    assert MemoryStore.open(tmp_path / "notes.memory").documents == ()
    nothing = client.post("/v1/chat/completions", json=body)
    assert nothing.status_code == 400 and "no readable text" in nothing.json()["error"]["message"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.memory"]


def test_what_other_processes_change_is_seen(serve, model, tokenizer, tmp_path):
    client, folder = serve(), tmp_path / "notes.memory"
    body = ASKED | {"memory": "notes", "messages": [{"role": "user", "content": "night owl Mina"}]}
    with writing(folder) as writer:
        writer.read(model, tokenizer, "owls", ["The night owl is called Mina.\n" * 3])
    source = client.post("/v1/chat/completions", json=body).json()["sharedllm"]["sources"][0]
    assert source["document"] == "owls" and "Mina" in source["text"]
    assert [d["name"] for d in client.get("/v1/memories").json()["data"][0]["documents"]] == ["foxes", "owls"]
    with writing(folder) as writer:
        writer.begin(model, tokenizer_fingerprint(tokenizer), keep_all=False)
        writer.read(model, tokenizer, "text", [TEXT])
        writer.commit()
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 409 and "--keep-all" in answer.json()["error"]["message"]
    (folder / "manifest.json").write_text("{}")
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 409 and "changed by another process" in answer.json()["error"]["message"]


def test_memories_that_can_not_be_served(model, tokenizer, tmp_path):
    (tmp_path / "a").mkdir()
    stores = [store_of(tmp_path / f"{folder}x.memory", model, tokenizer, text=TEXT) for folder in ("", "a/")]
    with pytest.raises(ValueError, match="both 'x'"):
        Memories(stores)
    with writing(tmp_path / "part.memory") as writer:
        writer.begin(model, tokenizer_fingerprint(tokenizer), keep_all=False)
        writer.read(model, tokenizer, "text", [TEXT])
        writer.commit()
    with pytest.raises(ValueError, match="--keep-all"):
        Memories([MemoryStore.open(tmp_path / "part.memory")])


def until(true) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_queue_and_a_time_that_is_over(serve, monkeypatch):
    client = serve(waiting=1, seconds=30)
    go, answers, own = threading.Event(), [], Service.answer

    def waits(service, request, job):
        go.wait(10)
        return own(service, request, job)

    monkeypatch.setattr(Service, "answer", waits)

    def post():
        answers.append(client.post("/v1/chat/completions", json=ASKED).status_code)

    threads = [threading.Thread(target=post) for _ in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: client.service.worker.running and client.service.worker.waiting == number)
    full = client.post("/v1/chat/completions", json=ASKED)
    assert (full.status_code, full.headers["retry-after"]) == (429, "5")
    assert full.json()["error"]["type"] == "rate_limit_error"
    assert "sharedllm_requests_waiting 1" in client.get("/metrics").text
    go.set()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]

    def late(service, request, job):
        while True:
            job.check()
            time.sleep(0.01)

    monkeypatch.setattr(Service, "answer", late)
    client = serve(seconds=0.1)
    response = client.post("/v1/chat/completions", json=ASKED)
    assert response.status_code == 504 and "--timeout" in response.json()["error"]["message"]

    def fails(service, request, job):
        raise RuntimeError("secret")

    monkeypatch.setattr(Service, "answer", fails)
    response = client.post("/v1/chat/completions", json=ASKED)
    assert response.status_code == 500 and "secret" not in response.text
    counted = client.get("/metrics").text
    assert 'sharedllm_requests_total{outcome="timeout"} 1' in counted
    assert 'sharedllm_requests_total{outcome="error"} 1' in counted


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker(serve, monkeypatch):
    client = serve()

    def dies(service, request, job):
        raise SystemExit

    monkeypatch.setattr(Service, "answer", dies)
    assert client.get("/health").status_code == 200
    assert client.post("/v1/chat/completions", json=ASKED).status_code == 503
    until(lambda: not client.service.worker.alive)
    assert client.get("/health").status_code == 503
    assert client.post("/v1/chat/completions", json=ASKED).status_code == 503
    assert 'sharedllm_requests_total{outcome="error"} 2' in client.get("/metrics").text


def test_metrics(serve):
    client = serve(waiting=0)
    for body in (ASKED, ASKED | {"stream": True}, ASKED | {"memory": "none"}):
        client.post("/v1/chat/completions", json=body)
    usage = client.post("/v1/completions", json={"prompt": "fox", "max_tokens": 7}).json()["usage"]
    assert usage["completion_tokens"] == 7
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert values['sharedllm_requests_total{outcome="ok"}'] == "3"
    assert values['sharedllm_requests_total{outcome="invalid"}'] == "1"
    asked = len("\nQuestion: What jumps?\nAnswer:")
    assert values["sharedllm_prompt_tokens_total"] == str(2 * asked + 3)
    assert int(values["sharedllm_generated_tokens_total"]) > 7
    assert values["sharedllm_time_to_first_token_seconds_count"] == "3"
    assert float(values["sharedllm_time_to_first_token_seconds_sum"]) > 0
    assert values['sharedllm_memory_tokens{memory="notes"}'] == str(len(TEXT))
    assert int(values['sharedllm_memory_bytes{memory="notes"}']) > 0
    assert (values["sharedllm_requests_waiting"], values["sharedllm_requests_running"]) == ("0", "0")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_its_generation(serve, stream):
    client = serve()
    service, wanted = client.service, 1_000_000
    body = json.dumps({"prompt": "fox", "max_tokens": wanted, "stream": stream}).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "scheme": "http", "client": None, "server": None,
    }  # fmt: skip

    async def talk() -> None:
        messages, begun = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

        async def receive():
            if messages:
                return messages.pop()
            if stream:
                await begun.wait()
            else:
                await asyncio.to_thread(until, lambda: "generated_tokens_total 0" not in service.metrics.text(0, 0, []))
            return {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):
                begun.set()

        await client.app(scope, receive, send)

    asyncio.run(talk())
    until(lambda: not service.worker.running)
    assert 'requests_total{outcome="cancelled"} 1' in service.metrics.text(0, 0, [])
    assert client.post("/v1/chat/completions", json=ASKED).status_code == 200


def test_a_worker_that_is_stopped_refuses_who_waits():
    async def talk() -> None:
        worker, begun = Worker(2), threading.Event()

        def endless(job):
            begun.set()
            while True:
                job.check()
                time.sleep(0.01)

        jobs = [Job(endless, 60), Job(lambda _: "never", 60)]
        for job in jobs:
            worker.submit(job)
        await asyncio.to_thread(begun.wait)
        await asyncio.to_thread(worker.stop)
        for job in jobs:
            with pytest.raises(Cancelled):
                await anext(job.events())
        with pytest.raises(ServingError, match="restart"):
            worker.submit(Job(endless, 60))

    asyncio.run(talk())


def test_who_is_being_answered_at_the_end_is_told(serve, monkeypatch):
    """The stream ends with a message, some seconds after the signal, and the signal does no more than that."""
    monkeypatch.setattr(server, "GRACE", 0.3)
    service, lines = serve().service, []

    def talk(port: int) -> None:
        body = json.dumps({"prompt": "fox", "stream": True, "max_tokens": 2**20}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, headers)
        try:
            with urllib.request.urlopen(request) as response:
                lines.append(response.readline())
                os.kill(os.getpid(), signal.SIGTERM)
                lines.extend(line for line in response if line.strip())
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with server.bind("127.0.0.1", 0) as bound:
        bound.listen()
        client = threading.Thread(target=talk, args=(bound.getsockname()[1],))
        client.start()
        server.run(application(service), service.worker, bound)
    client.join()
    assert lines[0].startswith(b"data: {") and len(lines) > 10
    assert b"the server is stopping" in lines[-2] and lines[-1] == b"data: [DONE]\n"
    assert signal.getsignal(signal.SIGTERM) is before and not service.worker.alive


def test_the_command_serves_until_it_is_told_to_stop(run, model_folder, tmp_path):
    text, memory = tmp_path / "text.txt", tmp_path / "text.memory"
    text.write_text(TEXT)
    assert run("read", text, "--keep-all", "-o", memory, "--model", model_folder)[0] == 0
    arguments = [
        memory,
        "--model",
        model_folder,
        "--port",
        "0",
        "--budget",
        "40",
        "--score",
        "bm25",
        "--api-key-env",
        "SERVE_KEY",
    ]
    command = [sys.executable, "-m", "sharedllm", "serve", *map(str, arguments)]
    environment = os.environ | {"SERVE_KEY": "hush", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("model at http://127.0.0.1:") and "memories: text." in line, line
            url = line.split()[2].removesuffix(";")

            def post(body: dict, key: str = "hush"):
                headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
                return urllib.request.urlopen(
                    urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
                )

            body = ASKED | {"memory": "text"}
            with post(body) as response:
                assert json.load(response)["sharedllm"]["sources"][0]["document"] == str(text)
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                post(body, key="wrong")
            refused.value.close()
            with post(body | {"stream": True}) as response:
                assert response.read().endswith(b"data: [DONE]\n\n")
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_other_machines_are_warned_of(run, model_folder, monkeypatch):
    monkeypatch.setattr(server, "run", lambda app, worker, bound: worker.stop())
    for host, more, message in (
        ("0.0.0.0", [], "other machines can reach 0.0.0.0, and no key is asked for."),
        ("0.0.0.0", ["--api-key-env", "SERVE_KEY"], "other machines can reach 0.0.0.0."),
        ("localhost", [], ""),
    ):
        monkeypatch.setenv("SERVE_KEY", "hush")
        code, out, err = run("serve", "--model", model_folder, "--host", host, "--port", 0, *more)
        assert (code, out) == (0, "") and f"http://{host}:" in err
        assert message in err and ("warning" in err) == bool(message)


def test_bad_input(run, model_folder, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ["--model", model_folder, "--port"]
        for arguments, message in (
            ([*options, port], f"can't listen at 127.0.0.1, port {port}"),
            ([tmp_path / "missing.memory", *options, 0], "does not exist"),
            ([*options, 0, "--score", "best"], "score='best' is not known"),
            ([*options, 0, "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY: that variable is not set"),
            ([*options, 0, "--host", "no.such.host.invalid"], "is no address"),
        ):
            code, out, err = run("serve", *arguments)
            assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
    for name in [m for m in sys.modules if m.startswith("sharedllm.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = run("serve")
    assert (code, err) == (2, "error: fastapi is not installed: pip install 'sharedllm[serve]'.\n")
