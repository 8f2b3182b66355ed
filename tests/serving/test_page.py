"""What the page at / needs of the server: its files, uploads with progress, documents to read, explanations."""

import asyncio
import errno
import json
import re
import socket
import threading
import time
from importlib.resources import files

import pytest
import torch
from helpers import byte_tokenizer
from served import ASKED, TEXT, OpenedHere, clients_of, listening, small_model, streamed

from sharedllm.serving import editing, uploads
from sharedllm.serving.passages import MOST
from sharedllm.serving.uploads import Extractions
from sharedllm.store import MemoryStore, writer
from sharedllm.store.writer import BLOCK_TOKENS, Writer

OWLS = "The night owl is called Mina.\n" * 3
URL = "/v1/memories/notes/documents"
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def serve(model, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "Apart", OpenedHere)
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        yield start


def names(client) -> list[str]:
    return [d["name"] for d in client.get("/v1/memories").json()["data"][0]["documents"]]


def test_the_page_needs_no_key_and_loads_nothing_from_elsewhere(serve):
    client = serve(key="hush")
    folder = files("sharedllm.serving") / "page"
    there = [path.name for path in folder.iterdir() if path.name != "index.html"]
    for path in (
        "/",
        "/page/explain.html",
        "/page/explain.css",
        "/page/explain.js",
        *(f"/page/{name}" for name in there),
    ):
        said = client.get(path)
        policy = said.headers["content-security-policy"]
        assert said.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy, path
        assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"http://www\.w3\.org\S*", "", said.text)), path
        assert "maxlength" not in said.text, "what is too long is refused with a word, not cut"
        if path.endswith(("/", ".html")):
            assert not re.search(r"<script(?![^>]*src=)|<style|style=|\son\w+=|\{\{", said.text), path
            for used in re.findall(r'(?:src|href)="(/[^"]*)"', said.text):
                assert client.get(used).status_code == 200, used
        for used in re.findall(r'(?:from|import\()\s*"\.?/(?:page/)?([^"]+)"', said.text):
            assert client.get(f"/page/{used}").status_code == 200, used
    assert client.get("/page/secrets.js").status_code == 401
    assert (
        client.get("/v1/memories").status_code
        == client.post("/").status_code
        == client.put(f"{URL}/x").status_code
        == 401
    )
    said = serve().get("/page/explained.js")
    assert said.status_code == 404
    assert ": nothing is there; there are explain.js, " in said.json()["error"]["message"]


def test_a_file_is_read_with_its_progress(serve):
    client = serve()
    text = OWLS * 40
    events = streamed(client.put(f"{URL}/a/owls.txt", content=b"\xef\xbb\xbf" + text.encode(), headers=STREAM))
    progress = [(e["read"], e["of"]) for e in events[:-1]]
    assert progress[0] == (0, len(text)) and progress[-1][0] == len(text) and progress == sorted(progress)
    assert events[-1]["documents"][-1] == {
        "name": "a/owls.txt",
        "tokens": len(text),
        "characters": len(text),
        "finished": True,
    }
    plain = client.put(f"{URL}/plain.txt", content=b"An owl.\n").json()
    assert plain["documents"][-1]["characters"] == len("An owl.\n")
    assert names(client) == ["foxes", "a/owls.txt", "plain.txt"]


def test_files_of_other_kinds_are_read_with_their_places(serve, monkeypatch):
    monkeypatch.undo()  # by processes of their own
    client = serve()
    page = (
        "<html><head><title>Birds</title></head><body><h1>Owls</h1><p>The night owl is called Mina.</p></body></html>"
    )
    assert client.put(f"{URL}/birds.html", content=page.encode()).status_code == 200
    assert "<p>" not in client.get(f"{URL}/birds.html").json()["text"]
    assert client.put(f"{URL}/prices.csv", content=b"bird,price\nheron,7\nstork,9\n").status_code == 200
    for question, name, place in (
        ("Who is the night owl Mina?", "birds.html", "Owls"),
        ("stork price", "prices.csv", "row"),
    ):
        body = ASKED | {"memory": "notes", "messages": [{"role": "user", "content": question}]}
        source = client.post("/v1/chat/completions", json=body).json()["sharedllm"]["sources"][0]
        assert source["document"] == name and place in source["place"]


def test_a_name_is_taken_once_and_replaced_when_asked(serve, tmp_path):
    client = serve()
    assert client.put(f"{URL}/owls", content=OWLS.encode()).status_code == 200
    for content in (OWLS, OWLS + "More.", "Another text."):
        taken = client.put(f"{URL}/owls", content=content.encode(), headers=STREAM)
        assert taken.status_code == 409 and "replace it (replace=true)" in taken.json()["error"]["message"]
    assert client.put(f"{URL}/owls?replace=true", content=b"Another text.").status_code == 200
    assert client.get(f"{URL}/owls").json()["text"] == "Another text."
    assert [d.name for d in MemoryStore.open(tmp_path / "notes.memory").documents] == ["foxes", "owls"]


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("report.pdf", b"%PDF-1.7\n", 415, "report.pdf is"),
        ("a.docx", b"PK\x03\x04abc", 415, "a.docx is"),
        ("a.bin", b"\x00" * 100, 415, "a.bin is of a kind that can't be read"),
        ("latin.txt", "Käse\x01".encode("latin-1"), 415, "latin.txt is not UTF-8: byte 1 is 0xe4; convert it"),
        ("empty.txt", b" \n", 400, "empty.txt is empty"),
        ("none.txt", b"", 400, "none.txt is empty"),
        ("a%07b", b"x", 400, "no name of a document"),
        ("large.txt", b"x" * 2001, 413, "the file has more than 2,000 bytes"),
    ],
)
def test_files_that_can_not_be_read(serve, name, content, status, message):
    client = serve(most_upload=2000)
    said = client.put(f"{URL}/{name}", content=content, headers=STREAM)
    assert said.status_code == status and message in said.json()["error"]["message"], said.text
    assert names(client) == ["foxes"] and "sharedllm-" not in said.text
    assert client.put("/v1/memories/none/documents/x", content=b"x").status_code == 404


def test_a_full_disk_is_named_and_nothing_half_read_stays(serve, monkeypatch, tmp_path):
    client, whole, calls = serve(), editing.Writer._block, []

    def full(self, *arguments):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, *arguments)

    monkeypatch.setattr(Writer, "_block", full)
    monkeypatch.setattr(writer, "BLOCK_TOKENS", 512)
    said = client.put(f"{URL}/long", content=b"a line of text\n" * (2 * 512 // 15))
    assert (
        said.status_code == 507 and "the disk of memory='notes' is full: free space" in said.json()["error"]["message"]
    )
    assert len(calls) == 2 and names(client) == ["foxes"]
    assert [d.name for d in MemoryStore.open(tmp_path / "notes.memory").documents] == ["foxes"]
    monkeypatch.undo()
    assert client.put(f"{URL}/long", content=b"a line of text\n").status_code == 200


def until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_questions_are_answered_while_a_text_is_read_and_a_client_that_leaves_ends_it(serve, model, monkeypatch):
    """The reading goes on in steps; the question sees the memory as it was before."""
    client, go, read = serve(), threading.Event(), type(model).read

    def slow(self, *arguments, progress=None, **options):
        memory = read(self, *arguments, **options)
        if progress is not None:
            for _ in range(2000):
                if go.is_set():
                    break
                progress(1)
                time.sleep(0.01)
        return memory

    monkeypatch.setattr(type(model), "read", slow)
    with listening(client.app, lifespan="off") as port:
        body = OWLS.encode()
        head = f"PUT {URL}/owls HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            assert b"200 OK" in connection.recv(4096)
            worker = client.service.worker
            until(lambda: worker.running)
            begun = time.monotonic()
            said = client.post("/v1/chat/completions", json=ASKED | {"memory": "notes"})
            assert said.status_code == 200 and said.json()["sharedllm"]["sources"][0]["document"] == "foxes"
            assert worker.running == 1 and time.monotonic() - begun < 10 and names(client) == ["foxes"]
        # The client has left: reading stops at its next step, and nothing of the text stays.
        until(lambda: not worker.running)
        assert names(client) == ["foxes"] and not go.is_set()
    monkeypatch.undo()
    assert client.put(f"{URL}/owls", content=OWLS.encode()).status_code == 200


def test_any_part_of_a_document_is_there_to_read(serve):
    client = serve()
    text = "".join(f"Línea {i} – {'x' * (i % 50)}\n" for i in range(700))
    assert len(text.encode()) > 2 * BLOCK_TOKENS
    client.put(f"{URL}/long", content=text.encode())
    client.put(f"{URL}/after", content=OWLS.encode())
    for start, end in (
        (0, 10),
        (5, 9000),
        (7990, 16500),
        (len(text) - 30, len(text) + 50),
        (len(text), len(text) + 5),
        (0, 10**9),
    ):
        said = client.get(f"{URL}/long", params={"start": start, "end": end}).json()
        stop = min(end, start + MOST, len(text))
        assert (said["text"], said["total"]) == (text[start:stop], len(text)), (start, end)
        assert said["characters"] == [start, max(stop, start)]
    assert client.get(f"{URL}/after").json()["text"] == OWLS
    missing = client.get(f"{URL}/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["param"] == "document"
    assert client.get(f"{URL}/long", params={"start": 5}).json()["text"] == text[5:10_005]


@pytest.mark.parametrize(
    ("method", "asked", "field", "said"),
    [
        ("get", "start=x", "start", "start='x' is not accepted: input should be a valid integer"),
        ("get", "start=-1", "start", "start='-1' is not accepted: input should be greater than or equal to 0."),
        ("get", "end=-5", "end", "end='-5' is not accepted: input should be greater than or equal to 0."),
        ("get", "end=" + "9" * 30, "end", "is not accepted: input should be less than or equal to 9007199254740992."),
        ("get", "start=9&end=8", "end", "end=8 is before start=9: send an end from 9, or leave it out."),
        ("get", "start=999", "start", "start=999 is after the end of 'foxes': send one from 0 to "),
        ("get", "from=3", "from", "from is not supported: leave it out."),
        ("put", "replaces=true", "replaces", "replaces is not supported: leave it out."),
        ("delete", "replaces=true", "replaces", "replaces is not supported: leave it out."),
        ("put", "replace=maybe", "replace", "replace='maybe' is not a boolean: send true or false."),
    ],
)
def test_what_an_address_asks_is_refused_if_it_has_no_effect(serve, method, asked, field, said):
    client = serve()
    refused = client.request(method, f"{URL}/foxes?{asked}")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == field
    assert said in refused.json()["error"]["message"] and names(client) == ["foxes"]


@pytest.mark.parametrize(
    ("address", "sent"), [(URL, {"name": "owls", "text": OWLS}), ("/v1/memories", {"name": "owls"})]
)
def test_what_is_made_takes_nothing_from_its_address(serve, address, sent):
    refused = serve(makes=True).post(f"{address}?replace=true", json=sent)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "replace"


def test_an_answer_can_be_explained(serve):
    client = serve()
    client.put(f"{URL}/owls", content=OWLS.encode())
    body = ASKED | {"memory": "notes", "messages": [{"role": "user", "content": "Who is Mina?"}]}
    assert "explanation" not in client.post("/v1/chat/completions", json=body).json()["sharedllm"]
    said = client.post("/v1/chat/completions", json=body | {"explain": True}).json()
    name = said["sharedllm"]["explanation"]
    facts = client.get(f"/v1/explanations/{name}").json()
    assert (
        name == said["id"]
        and facts["answer"] == said["choices"][0]["message"]["content"]
        and facts["question"] == "Who is Mina?"
    )
    assert [d["name"] for d in facts["documents"]] == ["foxes", "owls"] and facts["kept"] == said["sharedllm"][
        "selected_tokens"
    ]
    assert [s["text"] for s in facts["sources"]] == [s["text"] for s in said["sharedllm"]["sources"]]
    assert sum(layer["memory"] for layer in facts["layers"]) > 0
    last = streamed(client.post("/v1/chat/completions", json=body | {"explain": True, "stream": True}))[-1]
    assert json.dumps(client.get(f"/v1/explanations/{last['id']}").json()) == json.dumps(facts)
    for _ in range(16):
        client.post("/v1/chat/completions", json=body | {"explain": True, "max_tokens": 1})
    forgotten = client.get(f"/v1/explanations/{name}")
    assert forgotten.status_code == 404 and "ask again with explain=true" in forgotten.json()["error"]["message"]
    # Of an answer that outgrows the window its beginning is explained.
    no_end = {"max_tokens": 120, "logit_bias": {str(byte_tokenizer().encode("\n")[0]): -100}}
    endless = client.post("/v1/chat/completions", json=body | {"explain": True} | no_end).json()
    assert endless["usage"]["total_tokens"] > 128
    explained = client.get(f"/v1/explanations/{endless['id']}").json()
    assert explained["answer"] == endless["choices"][0]["message"]["content"] and explained["layers"]
    long = body | {"explain": True, "messages": [{"role": "system", "content": TEXT}, *body["messages"]]}
    assert "explanation" not in client.post("/v1/chat/completions", json=long).json()["sharedllm"]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["..", "...", "a/..", "../..", ".hidden"])
def test_names_that_mean_a_folder_are_only_names(name):
    """The file is written to a folder of its own, under another name where this one would lead out of it."""
    text = b"The barn owl is called Mina.\n"
    assert asyncio.run(Extractions().text(name, text, seconds=60)).text.encode() == text
