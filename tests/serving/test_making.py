"""New memories, the names of memories and documents, and requests that say too much or too little."""

import errno
import json
import shutil
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from helpers import byte_tokenizer, tiny_base, tiny_shared
from served import ASKED, TEXT, OpenedHere, clients_of, small_model, store_of

from sharedllm.serving import editing, memories, server, uploads
from sharedllm.serving.errors import ServingError
from sharedllm.serving.memories import Memories
from sharedllm.store import MemoryStore
from sharedllm.store.writer import writing
from sharedllm.utils.errors import UserError

OWLS = "The night owl is called Mina.\n" * 3


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def serve(model, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "Apart", OpenedHere)
    with clients_of(model, byte_tokenizer(), tmp_path) as start:
        yield start


def made(client, name):
    return client.post("/v1/memories", json={"name": name})


def message(said) -> str:
    return said.json()["error"]["message"]


def test_a_memory_is_made_filled_and_asked(serve, tmp_path):
    client = serve(makes=True)
    assert client.get("/v1/memories").json()["makes_memories"]
    said = made(client, "Briefe 2024 – é")
    assert said.status_code == 201
    assert said.json() == client.get("/v1/memories").json()["data"][1]
    assert said.json() | {"bytes": 0} == {
        "id": "Briefe 2024 – é",
        "object": "memory",
        "tokens": 0,
        "bytes": 0,
        "documents": [],
        "damaged": [],
        "removable": True,
    }
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == [
        "small",
        "small:notes",
        "small:Briefe 2024 – é",
    ]
    body = ASKED | {
        "memory": None,
        "model": "small:Briefe 2024 – é",
        "messages": [{"role": "user", "content": "night owl"}],
    }
    assert client.post("/v1/chat/completions", json=body).status_code == 400
    assert client.put(f"/v1/memories/{quote('Briefe 2024 – é')}/documents/owls", content=OWLS).status_code == 200
    source = client.post("/v1/chat/completions", json=body).json()["sharedllm"]["sources"][0]
    assert source["document"] == "owls" and "Mina" in source["text"]
    assert MemoryStore.open(tmp_path / "Briefe 2024 – é.memory").tokens == len(OWLS)


def test_an_empty_memory_alone_is_not_read_unless_it_is_named(model, tmp_path, serve):
    client = serve(makes=True)
    client.delete("/v1/memories/notes/documents/foxes")
    assert client.post("/v1/chat/completions", json=ASKED | {"memory": None}).status_code == 200
    said = client.post("/v1/chat/completions", json=ASKED | {"memory": "notes"})
    assert said.status_code == 400 and said.json()["error"]["param"] == "memory"
    assert message(said).endswith("holds no readable text: upload a document to it first.")


def test_without_a_folder_no_memory_is_made(serve, tmp_path):
    client = serve()
    said = made(client, "letters")
    assert said.status_code == 403 and "start it with `--folder" in message(said)
    assert not client.get("/v1/memories").json()["makes_memories"]
    assert [p.name for p in tmp_path.iterdir()] == ["notes.memory"]


NO_MEMORY = {
    "1 to 200 bytes": ["", " ", "x" * 201, "é" * 101],
    "can't be shown": ["a\nb", "a\u202eb", "a\ufffd", "\ud800"],
    "leave out ": ["../a", "a\\b", "a:b", "a*?", "notes.memory"],
    "neither a dot nor a space": [".", "..", ".hidden", "a "],
    "a device on Windows": ["NUL", "com1.a"],
}


def test_names_that_no_memory_can_have(serve, tmp_path):
    client, headers = serve(makes=True), {"Content-Type": "application/json"}
    for said, names in NO_MEMORY.items():
        for name in names:
            answer = client.post("/v1/memories", content=json.dumps({"name": name}), headers=headers)
            assert answer.status_code == 400 and said in message(answer), answer.text
            assert answer.json()["error"]["param"] == "name" and message(answer).isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.memory"]


def test_names_that_are_taken(serve, tmp_path):
    client = serve(makes=True)
    (tmp_path / "other.memory").mkdir()
    (tmp_path / "file.memory").write_text("text")
    for name in ("notes", "other", "file"):
        said = made(client, name)
        assert said.status_code == 409 and "is taken: choose another name" in message(said)
    assert client.post("/v1/memories", json={}).status_code == 400
    assert (tmp_path / "file.memory").read_text() == "text" and not any((tmp_path / "other.memory").iterdir())


@pytest.mark.parametrize(("first", "second"), [("Straße", "STRASSE"), ("É", "e\u0301"), ("letters", "Letters")])
def test_names_that_some_systems_take_for_the_same(serve, tmp_path, first, second):
    client = serve(makes=True)
    assert made(client, first).status_code == 201
    said = made(client, second)
    assert said.status_code == 409 and f"name={second!r} is taken by {first!r}" in message(said)
    assert len(list(tmp_path.glob("*.memory"))) == 2


def test_a_memory_that_another_process_removes_is_gone(serve, tmp_path):
    """It is neither listed nor asked, and its name is free again."""
    client = serve(makes=True)
    assert made(client, "letters").status_code == 201
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 200
    shutil.rmtree(tmp_path / "letters.memory")
    assert [m["id"] for m in client.get("/v1/memories").json()["data"]] == ["notes"]
    assert "small:letters" not in [m["id"] for m in client.get("/v1/models").json()["data"]]
    said = client.post("/v1/chat/completions", json=ASKED | {"memory": "letters"})
    assert said.status_code == 404 and "memory='letters' is not served: name one of notes" in message(said)
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 404
    assert made(client, "letters").status_code == 201
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 200


def test_of_several_that_make_one_name_at_once_one_wins(serve, tmp_path):
    client, answers = serve(makes=True, waiting=20), []
    threads = [threading.Thread(target=lambda: answers.append(made(client, "letters").status_code)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, *[409] * 5]
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 200
    assert MemoryStore.open(tmp_path / "letters.memory").tokens == len(OWLS)


def test_another_process_that_makes_the_same_name_is_not_disturbed(serve, tmp_path, monkeypatch):
    client = serve(makes=True)
    with writing(tmp_path / "letters.memory"):
        # As if it began after the look at the folder.
        monkeypatch.setattr(editing, "_alike", lambda *_: False)
        said = made(client, "letters")
        assert said.status_code == 409 and "another process" in message(said)


def test_a_folder_that_may_not_be_looked_into_is_told_once(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    said: list[str] = []

    def is_memory(path):
        raise UserError(f"{path} can't be read: Permission denied.")

    monkeypatch.setattr(memories, "is_memory", is_memory)
    served = Memories([], folder=tmp_path, left_out=said.append)
    served.scan()
    closed = tmp_path / "closed"
    assert said == [f"{closed} is not served: {closed} can't be read: Permission denied."] and served.names == []


def test_a_folder_that_is_removed_while_it_is_looked_at_offers_nothing(tmp_path, monkeypatch):
    served = Memories([], folder=tmp_path)

    def removed(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "iterdir", removed)
    served.scan()
    assert served.names == []


def test_every_memory_of_a_folder_is_served_but_what_can_not_be(model, tmp_path):
    tokenizer, said = byte_tokenizer(), []
    for name in ("b.memory", "a.memory"):
        store_of(tmp_path / name, model, tokenizer, text=TEXT)
    base = tiny_base("llama", seed=3, vocab_size=256)
    other = tiny_shared("llama", base=base, encoding="chunk", injection="joint")
    store_of(tmp_path / "other.memory", other, tokenizer, text=TEXT)
    (tmp_path / "damaged.memory").mkdir()
    (tmp_path / "text.txt").write_text("text")

    def opens(path):
        from sharedllm import open_memory

        return open_memory(path, fingerprint=model.fingerprint())

    memories = Memories([tmp_path / "b.memory"], opens, folder=tmp_path, left_out=said.append)
    assert memories.names == ["b", "a"]
    assert [line.partition(" is not served: ")[0] for line in said] == [
        str(tmp_path / f"{n}.memory") for n in ("damaged", "other")
    ]
    assert "another model" in said[1]
    memories.scan()
    assert len(said) == 2, "each is told of once"
    shutil.rmtree(tmp_path / "other.memory")
    store_of(tmp_path / "other.memory", model, tokenizer, text=TEXT)
    memories.scan()
    assert memories.names == ["b", "a", "other"] and len(said) == 2
    store_of(tmp_path / "third.memory", other, tokenizer, text=TEXT)
    memories.scan()
    assert len(said) == 3
    with pytest.raises(UserError, match="another model"):
        Memories([tmp_path / "third.memory"], opens)


def test_the_command_takes_a_folder(run, small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "run", lambda app, worker, bound: worker.stop())
    options = ["--model", small_folder, "--port", 0, "--folder"]
    code, _, err = run("serve", *options, tmp_path / "new" / "memories")
    assert code == 0 and "memories: none." in err and (tmp_path / "new" / "memories").is_dir()
    (tmp_path / "file").write_text("text")
    for folder, said in (("file", "is a file, not a folder"), ("file/below", "can't be written")):
        code, _, err = run("serve", *options, tmp_path / folder)
        assert (code, err.count("\n")) == (2, 1) and f"--folder {tmp_path / folder} {said}" in err


def test_names_of_documents_are_the_same_however_they_are_sent(serve):
    client = serve()
    for name in ("../a/owls.txt", "Käse – ü.md", "👩\u200d💻.txt", "日本語", "a b/#?.txt", "nul.txt", "x" * 512):
        assert client.post("/v1/memories/notes/documents", json={"name": name, "text": OWLS}).status_code == 200
        url = f"/v1/memories/notes/documents/{quote(name, safe='')}"
        assert client.get(url).json()["text"] == OWLS
        assert client.post("/v1/memories/notes/documents", json={"name": name, "text": OWLS}).status_code == 200
        assert client.put(url, content=b"Another text.").status_code == 409
        assert client.delete(url).status_code == 200
    # One upload takes a process; files of other names are uploaded elsewhere.
    assert client.put("/v1/memories/notes/documents/..%2Fa%2F%F0%9F%A6%89.txt", content=OWLS).status_code == 200


NO_DOCUMENT = ["a\nb.txt", "a\tb", "\x7f", "a\u202egpj.txt", "\u2066a", "a\u2028b", "a\x85b", "a\ufffdb", "\x1b[2J", " ", "..", "a/..", ".", "a/", "x" * 600]  # fmt: skip


def test_names_that_no_document_can_have_however_they_are_sent(serve):
    client, url = serve(), "/v1/memories/notes/documents"
    for name in NO_DOCUMENT:
        escaped = quote(name, safe="").replace(".", "%2E")
        sent = {
            "name": client.post(url, json={"name": name, "text": OWLS}),
            "document": client.put(f"{url}/{escaped}", content=OWLS),
        }
        for field, said in sent.items():
            assert said.status_code == 400 and "is no name of a document: " in message(said), (name, said.text)
            assert said.json()["error"]["param"] == field and message(said).isprintable()
            assert message(said).startswith(f"{field}=")
            assert "x" * 40 not in message(said) or "x…'" in message(said)
    assert [d["name"] for d in client.get("/v1/memories").json()["data"][0]["documents"]] == ["foxes"]


def test_a_name_that_is_not_utf_8_is_refused(serve):
    said = serve().put("/v1/memories/notes/documents/a%ff.txt", content=OWLS)
    assert said.status_code == 400 and "UTF-8" in message(said)


def test_headers_that_are_too_long_are_refused(serve):
    client = serve()
    for headers in ({"X-A": "x" * 70_000}, {f"X-{i}": "x" * 1000 for i in range(70)}):
        said = client.get("/health", headers=headers)
        assert said.status_code == 431 and "the headers have more than 32,768 bytes" in message(said)
    assert client.get("/health", headers={"X-A": "x" * 20_000}).status_code == 200


def test_what_is_wrong_is_named_as_it_was_sent(serve):
    client = serve()
    said = client.post("/v1/completions", json={"prompt": "x " * 200, "memory": "notes", "budget": 9})
    assert (
        said.status_code == 400
        and said.json()["error"]["param"] == "prompt"
        and "the question has 400 tokens" in message(said)
    )
    said = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": " "}]})
    assert message(said) == "the message that asks is empty: end with a question."
    said = client.post("/v1/chat/completions", json={"messages": [{"role": "assistant", "content": ""}]})
    assert message(said) == "the last message has the role 'assistant': end with a question, of the role 'user'."


def test_a_question_without_a_word_is_refused_where_a_memory_is_searched(serve):
    client = serve()
    user, earlier = (
        {"role": "user", "content": "?!"},
        [{"role": "user", "content": "What jumps?"}, {"role": "assistant", "content": "A fox."}],
    )
    for path, asked, field in (
        ("/v1/chat/completions", {"messages": [user]}, "messages"),
        ("/v1/completions", {"prompt": "?!"}, "prompt"),
    ):
        said = client.post(path, json=asked | {"memory": "notes", "max_tokens": 1})
        assert said.status_code == 400 and said.json()["error"]["param"] == field
        assert "the question '?!' has no word to search the memory for: ask with one" in message(said)
        assert client.post(path, json=asked | {"memory": "", "max_tokens": 1}).status_code == 200
    # It goes on with a question that has words.
    more = {"messages": [*earlier, user], "memory": "notes", "max_tokens": 1}
    assert client.post("/v1/chat/completions", json=more).status_code == 200


def test_numbers_that_are_none(serve):
    client, headers = serve(), {"Content-Type": "application/json"}
    for field in ("temperature", "top_p", "presence_penalty"):
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-9"):
            body = json.dumps({"messages": [{"role": "user", "content": "x"}]})[:-1] + f', "{field}": {number}}}'
            said = client.post("/v1/chat/completions", content=body, headers=headers)
            assert said.status_code == 400 and said.json()["error"]["param"] == field, said.text
            assert message(said).startswith(f"{field}=") and "is not accepted" in message(said)


def test_a_server_without_memories_names_none():
    with pytest.raises(ServingError, match="memory='letters' is not served: none is; leave it out"):
        Memories([])["letters"]


def test_a_memory_of_the_folder_is_deleted(serve, tmp_path):
    client = serve(makes=True)
    path = tmp_path / "letters.memory"
    assert made(client, "letters").status_code == 201
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 200
    assert client.get("/v1/memories/letters").json() == client.get("/v1/memories").json()["data"][1]
    held = client.service.memories.current("letters")
    assert client.delete("/v1/memories/letters").json() == {"id": "letters", "object": "memory", "deleted": True}
    assert not path.exists() and len(list(held.segments)) == 1, "who had it open can read on"
    for method in ("get", "delete"):
        assert client.request(method, "/v1/memories/letters").status_code == 404
    assert [memory["id"] for memory in client.get("/v1/memories").json()["data"]] == ["notes"]
    assert client.post("/v1/chat/completions", json=ASKED | {"memory": "letters"}).status_code == 404
    assert made(client, "letters").status_code == 201
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 200


def test_what_is_not_the_servers_own_is_not_deleted(serve, model, tmp_path):
    without = serve()
    assert not without.get("/v1/memories/notes").json()["removable"]
    refused = without.delete("/v1/memories/notes")
    assert refused.status_code == 403 and refused.json()["error"]["param"] == "memory"
    assert "none that this server keeps in its folder (`--folder`)" in message(refused)
    client = serve(makes=True)
    (tmp_path / "far").mkdir()
    store_of(tmp_path / "far" / "far.memory", model, byte_tokenizer(), owls=OWLS)
    (tmp_path / "linked.memory").symlink_to(tmp_path / "far" / "far.memory")
    assert client.get("/v1/memories/far").json()["documents"]
    assert client.delete("/v1/memories/far").status_code == 403
    assert made(client, "letters").status_code == 201
    assert client.put("/v1/memories/letters/documents/owls", content=OWLS).status_code == 200
    path = tmp_path / "letters.memory"
    with writing(path):
        busy = client.delete("/v1/memories/letters")
        assert busy.status_code == 409 and "being written by another process" in message(busy)
    foreign = [path / "mine.txt", path / "blocks" / "mine.txt"]
    for file in foreign:
        file.write_text("mine")
    assert client.delete("/v1/memories/letters").status_code == 200
    assert sorted(p for p in path.rglob("*") if p.is_file()) == sorted(foreign)


def test_a_memory_that_the_system_keeps_is_still_there(serve, tmp_path, monkeypatch):
    client = serve(makes=True)
    assert made(client, "letters").status_code == 201

    def refused(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(editing, "remove", refused)
    said = client.delete("/v1/memories/letters")
    assert said.status_code == 409 and "memory='letters' can't be deleted: Permission denied; ask for" in message(said)
    assert client.get("/v1/memories/letters").status_code == 200
