"""`sharedllm read --sync`: which text stays in a memory, which goes, and what is said of it."""

import json
from pathlib import Path

from sharedllm.store import open_memory

FEW = ["--max-new-tokens", 4]


def test_a_part_that_was_recovered_goes_when_its_text_is_read_again(run, tmp_path, small_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedllm.store.writer.BLOCK_TOKENS", 512)
    folder, texts = Path("f"), [Path("f/long one.txt"), Path("f/short.txt")]
    folder.mkdir()
    texts[0].write_text("The harbour master counted crates. " * 40)
    texts[1].write_text("The gate opens at nine.")
    model = ["--model", small_folder]
    assert run("read", "f", "-o", "a.memory", "--keep-all", *model)[0] == 0
    Path(f"a.memory/blocks/{open_memory('a.memory').documents[0].blocks[0].file}.memory").unlink()
    code, _, err = run("memory", "recover", "a.memory", "-o", "r.memory", *model)
    assert code == 0 and "left out: f/long one.txt, tokens 0–512: " in " ".join(err.split())

    def names():
        return [document.name for document in open_memory("r.memory").documents]

    part = "f/long one.txt from 512"
    assert names() == [part, "f/short.txt"] and "lacks its beginning" in " ".join(run("info", "r.memory")[1].split())
    ask = ["ask", "r.memory", "crates?", *FEW, *model]
    again = (
        f"incomplete: {part} lacks its beginning: `sharedllm read 'f/long one.txt' -o r.memory --sync` reads all of it."
    )
    assert again in run(*ask)[2]
    texts[0].rename("away.txt")
    drops = "f/long one.txt is not here to read it again: `sharedllm memory forget r.memory 'f/long one.txt from 512'` drops it."
    assert drops in run(*ask)[2]
    Path("f/long one.txt").write_bytes(bytes(99))
    assert run("read", "f", "-o", "r.memory", "--sync", *model)[0] == 0 and part in names(), "can't be read now"
    texts[0].write_text("Another text.")
    code, _, err = run("read", "f", "-o", "r.memory", "--append", *model)
    assert code == 0 and part in names(), "--append drops nothing"
    code, _, err = run("read", "f", "-o", "r.memory", "--sync", *model)
    assert code == 0 and f"dropped 1 document: {part}\n" in err and "incomplete" not in err
    assert names() == ["f/short.txt", "f/long one.txt"]


def test_the_document_of_an_emptied_file_goes(run, tmp_path, small_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for name in ("a", "b", "c"):
        Path(f"d/{name}.txt").write_text(f"The gate {name} opens at nine.")
    read = ["read", "d", "-o", "m.memory", "--keep-all", "--model", small_folder]
    assert run(*read)[0] == 0
    Path("d/b.txt").write_text(" \n")
    Path("d/c.txt").write_text("")
    Path("d/new.txt").write_text("")
    code, _, err = run(*read, "--append")
    stays = "d/c.txt is empty: there is nothing to read; its former text stays in the memory.\n"
    assert code == 0 and stays in err and "d/new.txt is empty: there is nothing to read.\n" in err
    assert len(open_memory("m.memory").contents) == 3
    code, _, err = run(*read, "--sync")
    assert (
        code == 0 and "1 document unchanged\ndropped 2 documents, empty now: d/b.txt, d/c.txt\n1 file could" in err
    ), err
    assert "nothing to read; m.memory holds" in err and "stays" not in err
    assert [document.name for document in open_memory("m.memory").documents] == ["d/a.txt"]
    Path("d/a.txt").write_text("")
    code, out, _ = run(*read, "--sync", "--json")
    assert code == 0 and json.loads(out)["dropped"] == ["d/a.txt"] and open_memory("m.memory").contents == []


def test_a_file_that_became_binary_keeps_its_former_text_and_says_so(run, tmp_path, small_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for name in ("a", "b"):
        Path(f"d/{name}.txt").write_text(f"The gate {name} opens at nine.")
    read = ["read", "d", "-o", "m.memory", "--keep-all", "--model", small_folder]
    assert run(*read)[0] == 0
    Path("d/b.txt").write_bytes(bytes(range(256)))
    Path("d/c.txt").write_bytes(bytes(range(256)))
    code, out, _ = run(*read, "--sync", "--json")
    told = {entry["file"]: entry["reason"] for entry in json.loads(out)["unreadable"]}
    assert code == 0 and len(open_memory("m.memory").contents) == 2
    assert told["d/b.txt"].endswith("; its former text stays in the memory.") and "stays" not in told["d/c.txt"]
