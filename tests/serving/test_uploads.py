"""Uploads that go wrong: too large, twice at once, on a full disk, or of a client that leaves. Nothing is left over."""

import asyncio
import errno
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from combined import combined
from helpers import byte_tokenizer
from safetensors import SafetensorError
from served import clients_of, listening, small_model, streamed

from sharedllm.documents import apart
from sharedllm.serving.uploads import Extractions
from sharedllm.store import MemoryStore, writer
from sharedllm.store.manifest import write_manifest

URL = "/v1/memories/notes/documents"
STREAM = {"Accept": "text/event-stream"}
OWLS = "The barn owl is called Mina.\n" * 9


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def serve(model, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        yield start
        assert os.listdir(tmp_path / "temporary") == []


@pytest.fixture
def processes(monkeypatch):
    """The processes that open documents."""
    started, begin = [], apart.Apart.__init__

    def noted(self, path):
        begin(self, path)
        started.append(self._process)

    monkeypatch.setattr(apart.Apart, "__init__", noted)
    return started


def names(client) -> list[str]:
    return [d["name"] for d in client.get("/v1/memories").json()["data"][0]["documents"]]


def blocks(folder) -> int:
    """Files of a store's blocks that its manifest does not name."""
    named = sum(len(d.blocks) for d in MemoryStore.open(folder).documents)
    return len(os.listdir(folder / "blocks")) - named


def until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_leaves_ends_the_opening_of_its_document(serve, monkeypatch, processes, caplog):
    client = serve()
    monkeypatch.setattr(apart, "COMMAND", [sys.executable, "-c", "import time; time.sleep(600)"])
    with listening(client.app, lifespan="off") as port:
        head = f"PUT {URL}/owls HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(OWLS)}\r\n\r\n"
        for left in (1, 2, 3):  # more than are opened at once: none of them holds a turn
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head.encode() + OWLS.encode())
                until(lambda left=left: len(processes) == left)
                assert processes[-1].poll() is None
            until(lambda: processes[-1].poll() is not None)
    assert names(client) == ["foxes"] and not caplog.records
    monkeypatch.undo()
    assert client.put(f"{URL}/owls", content=OWLS).status_code == 200


@pytest.mark.parametrize(("request_line", "sent"), [(f"PUT {URL}/owls", OWLS[:20]), (f"POST {URL}", '{"name": ')])
def test_a_body_that_breaks_off_is_no_failure(serve, request_line, sent, capsys):
    client = serve()
    with listening(client.app, lifespan="off") as port, socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
        connection.sendall(head.encode() + sent.encode())
    assert names(client) == ["foxes"] and capsys.readouterr().err == ""


def test_a_document_that_takes_too_long_is_given_up(serve, monkeypatch, processes):
    client = serve(seconds=0.3)
    monkeypatch.setattr(apart, "COMMAND", [sys.executable, "-c", "import time; time.sleep(600)"])
    said = client.put(f"{URL}/owls", content=OWLS, headers=STREAM)
    assert said.status_code == 504 and "owls takes longer than 0.3 s to open" in said.json()["error"]["message"]
    assert processes[0].poll() is not None and names(client) == ["foxes"]


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 415, "owls.pdf is damaged: what reads it ended"),
        ("raise KeyError", 500, "the server failed"),
    ],
)
def test_a_crash_while_a_document_is_opened_harms_nobody(serve, monkeypatch, end, status, message):
    client = serve()
    monkeypatch.setattr(apart, "COMMAND", [sys.executable, "-c", end])
    said = client.put(f"{URL}/owls.pdf", content=OWLS)
    assert said.status_code == status and message in said.json()["error"]["message"]
    monkeypatch.undo()
    assert client.put(f"{URL}/owls", content=OWLS).status_code == 200


def test_two_uploads_of_one_name_at_once(serve, tmp_path):
    client, answers = serve(), []
    texts = [f"Text {i} of an owl.\n" * 40 for i in range(4)]
    threads = [
        threading.Thread(target=lambda text=text: answers.append((text, client.put(f"{URL}/owls", content=text))))
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [text for text, said in answers if said.status_code == 200]
    lost = [said.json()["error"]["message"] for _, said in answers if said.status_code == 409]
    assert len(won) == 1 and len(lost) == 3 and all("is in memory='notes' already: replace it" in one for one in lost)
    assert client.get(f"{URL}/owls").json()["text"] == won[0] and names(client) == ["foxes", "owls"]
    assert blocks(tmp_path / "notes.memory") == 0


def test_an_upload_too_large_is_refused_however_it_comes(serve, processes):
    client = serve(most_upload=2000)
    pieces = (b"x" * 500 for _ in range(9))  # of unknown length
    for content in (b"x" * 2001, pieces):
        said = client.put(f"{URL}/large.txt", content=content, headers=STREAM)
        assert said.status_code == 413 and "the file has more than 2,000 bytes: split it" in said.text
    assert names(client) == ["foxes"] and processes == []


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_in_safetensors(*arguments, **options):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def fails_after(function, calls: int, fail):
    """A function that fails from a call on."""
    left = iter(range(calls))
    return lambda *arguments, **options: (function if next(left, None) is not None else fail)(*arguments, **options)


@pytest.mark.parametrize(("place", "stream"), combined(["temporary file", "block", "manifest"], [True, False]))
def test_a_full_disk(serve, monkeypatch, tmp_path, place, stream):
    client, said = serve(), "the disk of memory='notes' is full: free space, then send it again"
    monkeypatch.setattr(writer, "BLOCK_TOKENS", 64)
    if place == "temporary file":
        monkeypatch.setattr(Path, "write_bytes", full)
        said = "the disk of temporary files is full: free space, then send it again"
    elif place == "block":
        from sharedllm.memory import file

        monkeypatch.setattr(file, "save_file", fails_after(file.save_file, 2, full_in_safetensors))
    else:
        monkeypatch.setattr(writer, "write_manifest", fails_after(write_manifest, 0, full))
    answer = client.put(f"{URL}/owls", content=OWLS, headers=STREAM if stream else {})
    if stream and place != "temporary file":
        assert streamed(answer)[-1]["error"]["message"].startswith(said)
    else:
        assert answer.status_code == 507 and answer.json()["error"]["message"].startswith(said)
    assert names(client) == ["foxes"] and blocks(tmp_path / "notes.memory") == 0
    assert sorted(os.listdir(tmp_path / "notes.memory")) == ["blocks", "lock", "manifest.json"]
    monkeypatch.undo()
    assert client.put(f"{URL}/owls", content=OWLS).status_code == 200


def test_a_module_in_the_servers_folder_is_not_run(tmp_path, monkeypatch):
    """Extraction imports json, and a folder of documents may hold a json.py."""
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    text = asyncio.run(Extractions().text("notes.txt", b"The mill is old.", 60))
    assert text.text.strip() == "The mill is old."
