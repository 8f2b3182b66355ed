"""Memories of a server that are opened again."""

import pytest
from helpers import byte_tokenizer
from served import TEXT, clients_of, small_model, store_of

from sharedllm.serving.editing import add_document, remove_document
from sharedllm.serving.memories import Memories


def unseen(path) -> None:
    """Damage a block where only reading every byte of it shows."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["added", "removed", "closed"])
def test_a_damaged_block_stays_left_out(tmp_path, how):
    model, tokenizer = small_model(), byte_tokenizer()
    store = store_of(tmp_path / "a.memory", model, tokenizer, foxes=TEXT, owls=TEXT)
    unseen(tmp_path / "a.memory" / "blocks" / f"{store.documents[0].blocks[0].file}.memory")
    memories = Memories([tmp_path / "a.memory"])
    if how == "added":
        add_document(memories, "a", "new", TEXT, model, tokenizer, lambda tokens: None)
    elif how == "removed":
        remove_document(memories, "a", "owls")
    else:
        memories.close("a")
    assert [lost.document for lost in memories.current("a").damaged] == ["foxes"]


def test_an_answer_says_what_the_memory_has_lost(tmp_path):
    model, tokenizer = small_model(), byte_tokenizer()
    store = store_of(tmp_path / "a.memory", model, tokenizer, foxes=TEXT, owls=TEXT)
    unseen(tmp_path / "a.memory" / "blocks" / f"{store.documents[0].blocks[0].file}.memory")
    with clients_of(model, tokenizer, tmp_path) as start:
        client = start()
        client.service.memories._opened |= Memories([tmp_path / "a.memory"])._opened
        asked = {"messages": [{"role": "user", "content": "Who jumps?"}], "memory": "a", "max_tokens": 4}
        said = client.post("/v1/chat/completions", json=asked).json()["sharedllm"]
        assert [part["document"] for part in said["damaged"]] == ["foxes"] and said["incomplete"] == []
        listed = {memory["id"]: memory["damaged"] for memory in client.get("/v1/memories").json()["data"]}
        assert listed == {"notes": [], "a": said["damaged"]}
        lost = client.get("/v1/memories/a/documents/foxes").json()
        assert (lost["total"], lost["text"]) == (len(TEXT), "")
        whole = client.post("/v1/chat/completions", json=asked | {"memory": "notes"}).json()["sharedllm"]
        assert whole["damaged"] == whole["incomplete"] == []


def test_a_memory_that_has_lost_all_is_refused(tmp_path):
    model, tokenizer = small_model(), byte_tokenizer()
    store = store_of(tmp_path / "a.memory", model, tokenizer, foxes=TEXT)
    unseen(tmp_path / "a.memory" / "blocks" / f"{store.documents[0].blocks[0].file}.memory")
    with clients_of(model, tokenizer, tmp_path) as start:
        client = start()
        client.service.memories._opened |= Memories([tmp_path / "a.memory"])._opened
        asked = {"messages": [{"role": "user", "content": "Who jumps?"}], "memory": "a", "max_tokens": 4}
        refused = client.post("/v1/chat/completions", json=asked)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "memory"
        assert "memory='a' holds no readable text: upload a document" in refused.json()["error"]["message"]
