"""The server's limits: keys, changing documents, queue and time limits, metrics, and orderly shutdown."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
import torch
from helpers import byte_tokenizer
from prometheus_client.parser import text_string_to_metric_families
from served import ASKED, TEXT, clients_of, small_model, store_of
from starlette.testclient import TestClient

import sharedllm
from sharedllm import save_memory
from sharedllm.cli.loading import tokenizer_fingerprint
from sharedllm.serving import server
from sharedllm.serving.app import Service, application
from sharedllm.serving.errors import ServingError
from sharedllm.serving.memories import Memories
from sharedllm.serving.worker import Cancelled, Job, Worker
from sharedllm.store import MemoryStore
from sharedllm.store.writer import writing
from sharedllm.utils.text import tokenize


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def serve(model, tokenizer, tmp_path):
    with clients_of(model, tokenizer, tmp_path) as start:
        yield start


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
    grown = client.post(url, json=new | {"text": new["text"].replace("\n", "\r") + "It sleeps."}).json()
    assert grown["documents"][1]["characters"] == len(new["text"]) + len("It sleeps.")
    other = client.post(url, json=new | {"text": "Another text."})
    error = other.json()["error"]
    assert (other.status_code, error["param"]) == (400, "text") and "send the whole text" in error["message"]
    assert f"text does not begin with the {len(new['text']) + len('It sleeps.')} characters" in error["message"]
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


def test_lists_and_texts_are_those_on_disk_without_a_question(serve, model, tokenizer, tmp_path):
    """A document that another process forgets is gone at once: from the list, and with its text."""
    client, folder, place = serve(makes=True), tmp_path / "notes.memory", "/v1/memories/notes/documents"

    def listed() -> dict[str, list[str]]:
        memories = client.get("/v1/memories").json()["data"]
        return {memory["id"]: [document["name"] for document in memory["documents"]] for memory in memories}

    with writing(folder) as writer:
        writer.read(model, tokenizer, "owls", ["The night owl is called Mina.\n"])
    assert listed() == {"notes": ["foxes", "owls"]}
    assert client.put(f"{place}/owls", content="An owl.").status_code == 409
    with writing(folder) as writer:
        writer.forget("foxes")
    assert client.get(f"{place}/foxes").status_code == 404
    assert listed() == {"notes": ["owls"]}
    assert client.put(f"{place}/foxes", content=TEXT).status_code == 200
    store_of(tmp_path / "other.memory", model, tokenizer, text=TEXT)
    assert client.post("/v1/chat/completions", json=ASKED | {"memory": "other"}).status_code == 200
    assert listed() == {"notes": ["owls", "foxes"], "other": ["text"]}
    (folder / "manifest.json").write_text("{}")
    gone = client.get(f"{place}/owls")
    assert gone.status_code == 409 and "changed by another process" in gone.json()["error"]["message"]


def test_memories_that_can_not_be_served(model, tokenizer, tmp_path):
    (tmp_path / "a").mkdir()
    stores = [store_of(tmp_path / f"{folder}x.memory", model, tokenizer, text=TEXT) for folder in ("", "a/")]
    with pytest.raises(ValueError, match="both 'x'"):
        Memories([store.folder for store in stores])
    with writing(tmp_path / "part.memory") as writer:
        writer.begin(model, tokenizer_fingerprint(tokenizer), keep_all=False)
        writer.read(model, tokenizer, "text", [TEXT])
        writer.commit()
    with pytest.raises(ValueError, match="--keep-all"):
        Memories([tmp_path / "part.memory"])


def until(true) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_queue_and_a_time_that_is_over(serve, monkeypatch):
    client = serve(waiting=1, rows=1, seconds=30)
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
    # Bodies that are not accepted; what is not asked for an answer doesn't count.
    for path, body in (
        ("chat/completions", {"messages": []}),
        ("completions", {"prompt": 5}),
        ("responses", {}),
        ("nothing", {}),
    ):
        assert 400 <= client.post(f"/v1/{path}", json=body).status_code < 500
    client.post("/v1/completions", content=b"\xff", headers={"Content-Type": "application/json"})
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    (family,) = [f for f in text_string_to_metric_families(response.text) if f.name == "sharedllm_requests"]
    assert family.documentation == "Finished completions, by outcome." and family.type == "counter"
    lines = [line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in lines}
    assert values['sharedllm_requests_total{outcome="ok"}'] == 3
    assert values['sharedllm_requests_total{outcome="invalid"}'] == 5
    assert values['sharedllm_requests_total{outcome="timeout"}'] == 0
    asked = len("\nQuestion: What jumps?\nAnswer:")
    assert values["sharedllm_prompt_tokens_total"] == 2 * asked + 3
    assert values["sharedllm_generated_tokens_total"] > 7
    assert values["sharedllm_time_to_first_token_seconds_count"] == 3
    assert values["sharedllm_time_to_first_token_seconds_sum"] > 0
    assert values["sharedllm_queue_duration_seconds_count"] == 3
    assert values["sharedllm_request_duration_seconds_count"] == 8
    assert values['sharedllm_request_duration_seconds_bucket{le="+Inf"}'] == 8
    assert values["sharedllm_answer_tokens_sum"] == values["sharedllm_generated_tokens_total"]
    assert values['sharedllm_answer_tokens_bucket{le="4.0"}'] == 0
    waited, whole = (values[f"sharedllm_{name}_duration_seconds_sum"] for name in ("queue", "request"))
    assert 0 <= waited <= values["sharedllm_time_to_first_token_seconds_sum"] <= whole
    assert values['sharedllm_memory_tokens{memory="notes"}'] == len(TEXT)
    assert values['sharedllm_memory_bytes{memory="notes"}'] > 0
    assert (values["sharedllm_requests_waiting"], values["sharedllm_requests_running"]) == (0, 0)
    assert "sharedllm_requests_total" in serve().get("/metrics").text  # another server counts for itself


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
    """The stream ends with a message some seconds after the signal, which has no other effect."""
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
    assert lines[0].startswith(b"data: {") and len(lines) > 3
    assert b"the server is stopping" in lines[-2] and lines[-1] == b"data: [DONE]\n"
    assert signal.getsignal(signal.SIGTERM) is before and not service.worker.alive


def test_the_command_serves_until_it_is_told_to_stop(run, small_folder, tmp_path, monkeypatch):
    """In this process, which is signalled when its client has been answered."""
    text, memory, seen = tmp_path / "text.txt", tmp_path / "text.memory", []
    text.write_text(TEXT)
    assert run("read", text, "--keep-all", "-o", memory, "--model", small_folder)[0] == 0

    def talk(url: str) -> None:
        def post(body: dict, key: str = "hush"):
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            return urllib.request.urlopen(
                urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
            )

        try:
            body = ASKED | {"memory": "text"}
            with post(body) as response:
                seen.append(json.load(response)["sharedllm"]["sources"][0]["document"])
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                post(body, key="wrong")
            refused.value.close()
            with post(body | {"stream": True}) as response:
                seen.append(response.read().endswith(b"data: [DONE]\n\n"))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    serves = server.run

    def served(app, worker, bound) -> None:
        port = bound.getsockname()[1]
        client = threading.Thread(target=talk, args=(f"http://127.0.0.1:{port}/v1",))
        client.start()
        serves(app, worker, bound)
        client.join()
        seen.append(port)

    monkeypatch.setattr(server, "run", served)
    monkeypatch.setenv("SERVE_KEY", "hush")
    options = ["--port", 0, "--budget", 40, "--score", "bm25", "--api-key-env", "SERVE_KEY"]
    code, out, err = run("serve", memory, "--model", small_folder, *options)
    assert (code, out, seen[:2]) == (0, "", [str(text), True])
    assert err.startswith(f"model at http://127.0.0.1:{seen[2]}/v1; ") and "memories: text." in err, err


@pytest.mark.slow
def test_a_process_of_its_own_ends_without_a_word(small_folder):
    command = [sys.executable, "-m", "sharedllm", "serve", "--model", str(small_folder), "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("model at http://127.0.0.1:"), line
            # Only what answers is ready for a signal.
            urllib.request.urlopen(line.split()[2].partition("/v1")[0] + "/health").close()
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_other_machines_are_warned_of(run, small_folder, monkeypatch):
    monkeypatch.setattr(server, "run", lambda app, worker, bound: worker.stop())
    monkeypatch.setenv("SERVE_KEY", "hush\n")
    for host, more, message in (
        ("0.0.0.0", [], "other machines can reach 0.0.0.0, and no key is asked for."),
        ("0.0.0.0", ["--api-key-env", "SERVE_KEY"], "other machines can reach 0.0.0.0."),
        ("localhost", [], ""),
    ):
        code, out, err = run("serve", "--model", small_folder, "--host", host, "--port", 0, *more)
        assert (code, out) == (0, "") and f"http://{host}:" in err
        assert message in err and ("warning" in err) == bool(message)


def test_bad_input(run, small_folder, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ["--model", small_folder, "--port"]
        monkeypatch.setenv("BLANK_KEY", " \n")
        monkeypatch.setenv("LONG_KEY", "hush\nhush\n")
        for arguments, message in (
            ([*options, port], f"can't listen on 127.0.0.1, port {port}"),
            ([tmp_path / "missing.memory", *options, 0], "does not exist"),
            ([*options, 0, "--score", "best"], "--score best is not known"),
            ([*options, 0, "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY: that variable is not set"),
            ([*options, 0, "--api-key-env", "BLANK_KEY"], "BLANK_KEY: that variable is empty"),
            ([*options, 0, "--api-key-env", "LONG_KEY"], "LONG_KEY: the key has a line end"),
            ([*options, 0, "--host", "no.such.host.invalid"], "is not an address"),
        ):
            code, out, err = run("serve", *arguments)
            assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
    monkeypatch.setattr(sharedllm, "serving", sharedllm.serving)  # importing it again replaces it
    for name in [m for m in sys.modules if m.startswith("sharedllm.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = run("serve")
    assert (code, err) == (2, "error: fastapi is not installed: pip install 'sharedllm[serve]'.\n")


def test_a_memory_in_one_file_is_asked_but_not_changed(model, tokenizer, tmp_path):
    with torch.no_grad():
        memory = model.read(tokenize(tokenizer, TEXT), keep_all=True, sources=["foxes"])
    save_memory(memory, tmp_path / "notes.memory")
    memories = Memories([tmp_path / "notes.memory"])
    service = Service(model, tokenizer, "small", memories, Worker(4), budget=60, score="bm25")
    with TestClient(application(service)) as client:
        said = client.post("/v1/chat/completions", json=ASKED | {"memory": "notes"}).json()
        assert said["sharedllm"]["sources"][0]["document"] == "foxes"
        (listed,) = client.get("/v1/memories").json()["data"]
        assert [d["name"] for d in listed["documents"]] == ["foxes"] and listed["tokens"] == len(TEXT)
        refused = client.post("/v1/memories/notes/documents", json={"name": "owls", "text": "An owl."})
        assert refused.status_code == 409 and "is a file, not a memory folder" in refused.json()["error"]["message"]
        save_memory(memory.slice(0, 128), tmp_path / "notes.memory")
        client.post("/v1/chat/completions", json=ASKED | {"memory": "notes"})
        assert client.get("/v1/memories").json()["data"][0]["tokens"] == 128
