"""`sharedllm read` with documents: sources name pages and lines, folders are followed, nothing is lost."""

import json
import re

import pytest
from made_documents import docx, epub, pdf
from made_office import pptx, row, shape, xlsx

from sharedllm.store import MemoryStore, writer
from sharedllm.store.manifest import read_manifest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Documents of several kinds, each with a fact at a known place; blocks so small that there are many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writer, "BLOCK_TOKENS", 64)
    docs = tmp_path / "docs"
    docs.mkdir()
    filler = "The lanterns burned low in the harbour.\n"
    pdf(docs / "report.pdf", [filler * 3, filler * 2 + "The falcon is 48213.", filler], title="The report")
    (docs / "notes.md").write_text("# Start\n" + filler * 4 + "## Codes\nThe walrus is 771.\n" + filler)
    (docs / "table.csv").write_text("animal,code\n" + "gull,1\n" * 8 + "heron,5512\n" + "gull,1\n" * 4)
    docx(docs / "letter.docx", [("Heading1", "One"), ("", filler * 3), ("Heading1", "Two"), ("", "The badger is 909.")])
    epub(docs / "book.epub", {"The Sea": f"<p>{filler * 4}</p>", "The Land": "<p>The weasel is 3030.</p>"})
    return docs


@pytest.fixture
def read(run, small_folder, folder):
    def call(*arguments, code=0):
        got, out, err = run("read", *arguments, "-o", "x.memory", "--keep-all", "--model", small_folder, "--json")
        assert got == code, err
        return json.loads(out) if code == 0 else err

    return call


def names() -> list[str]:
    return [document.name for document in MemoryStore.open("x.memory").documents]


def test_sources_name_the_place(run, read, folder, small_folder):
    filler = "The lanterns burned low in the harbour. "
    pptx(folder / "deck.pptx", [shape(filler * 3), shape(filler * 2 + "The otter is 6161."), shape(filler)])
    rows = "".join(row(i, "stoat" if i == 9 else "gull", 4242 if i == 9 else 1) for i in range(2, 40))
    xlsx(folder / "codes.xlsx", {"First": row(1, filler * 20), "Codes": row(1, "animal", "code") + rows})
    read("docs")
    options = ["--model", small_folder, "--score", "bm25", "--budget", 24, "--max-new-tokens", 2]
    for question, document, place in (
        ("falcon 48213", "docs/report.pdf", "page 2"),
        ("walrus 771", "docs/notes.md", 'lines 6–7, section "Start"|line 7, section "Codes"'),
        ("heron 5512", "docs/table.csv", "rows? 10(–11)?"),
        ("badger 909", "docs/letter.docx", 'section "Two"'),
        ("weasel 3030", "docs/book.epub", 'chapter "The Land"'),
        ("otter 6161", "docs/deck.pptx", "slide 2"),
        ("stoat 4242", "docs/codes.xlsx", '^sheet "Codes", rows 1–'),
    ):
        code, out, err = run("ask", "x.memory", question, *options, "--json")
        assert code == 0, err
        said = json.loads(out)["sources"][0]
        assert said["document"] == document and re.search(place, said["place"]), said
        # A document that is asked directly, and a memory in one file, name the same.
        code, out, _ = run("ask", document, question, *options, "--json")
        assert code == 0 and re.search(place, json.loads(out)["sources"][0]["place"])
    err = run("ask", "x.memory", question, *options)[2]
    assert f"{document}, {said['place']}: " in err


def test_places_equal_those_of_the_text(read):
    """Lines counted over blocks are those of the text, also of a document that grew."""
    text = "".join(f"line {i}\n" for i in range(1, 60))
    with open("docs/notes.md", "w") as file:  # noqa: PTH123
        file.write(text[:201])
    read("docs")
    with open("docs/notes.md", "w") as file:  # noqa: PTH123
        file.write(text)
    read("docs", "--append")
    document = read_manifest(MemoryStore.open("x.memory").folder).document("docs/notes.md")
    assert len(document.blocks) > 5 and sum(block.lines for block in document.blocks) == 59
    at = 0
    for block in document.blocks:
        assert block.lines == text[at : at + block.characters].count("\n")
        at += block.characters


def test_sync(read, folder):
    first = read("docs", "--sync")
    assert (first["documents"], first["unchanged"], first["dropped"], first["unreadable"]) == (5, 0, [], [])
    again = read("docs", "--sync")
    assert (again["tokens_read"], again["unchanged"]) == (0, 5)
    (folder / "new.txt").write_text("A new file.\n")
    (folder / "table.csv").unlink()
    (folder / "notes.md").write_text("Another text, of which the first one is no beginning.\n")
    pdf(folder / "report.pdf", ["One page."])
    before = names()
    changed = read("docs", "--sync")
    assert changed["dropped"] == ["docs/table.csv"] and changed["unchanged"] == 2
    assert (changed["new"], changed["changed"], first["new"], again["changed"]) == (1, 2, 5, 0)
    store = MemoryStore.open("x.memory")
    assert names() == [*(name for name in before if name != "docs/table.csv"), "docs/new.txt"]
    assert {d.name: d.characters for d in store.documents}["docs/report.pdf"] == len("One page.\n\n")
    assert store.manifest.document("docs/report.pdf").origin.places == ((0, "page 1"),)
    blocks = {path.stem for path in (store.folder / "blocks").iterdir()}
    assert blocks == {block.file for document in store.documents for block in document.blocks}


def test_sync_says_what_it_did(run, folder, small_folder):
    def sync(*options: str) -> str:
        return run("read", "docs", "-o", "x.memory", "--sync", "--keep-all", "--model", small_folder, *options)[2]

    assert "new" not in sync()
    nothing = sync("--exclude", "*.log")
    assert "--exclude '*.log' left nothing out\n" in nothing
    assert "5 documents unchanged\nnothing changed; x.memory holds " in nothing and "tokens/s" not in nothing
    (folder / "new.txt").write_text("A new file.\n")
    (folder / "notes.md").write_text("Another text.\n")
    (folder / "table.csv").unlink()
    told = "1 document new: docs/new.txt\n1 document changed: docs/notes.md\n3 documents unchanged\ndropped 1 document: docs/table.csv\nread "
    assert told in sync()
    (folder / "new.txt").unlink()
    assert "dropped 1 document: docs/new.txt\nnothing to read; x.memory holds " in sync()


def test_sync_leaves_other_documents(read, folder, tmp_path):
    (tmp_path / "other.txt").write_text("Not in the folder.\n")
    read("docs", "other.txt")
    (tmp_path / "other.txt").unlink()
    assert read("docs", "--sync")["dropped"] == []
    assert "other.txt" in names()
    assert "name the folder as it was read" in read(str(folder), "--sync", code=2)
    (folder / "notes.md").unlink()
    assert read("docs", "--sync", "--exclude", "*.csv")["dropped"] == ["docs/notes.md", "docs/table.csv"]


def test_sync_keeps_what_can_not_be_read_now(read, folder):
    read("docs")
    pdf(folder / "report.pdf", ["secret"], locked=True)
    said = read("docs", "--sync")
    assert said["dropped"] == [] and "docs/report.pdf" in names()
    assert said["unreadable"] == [{"file": "docs/report.pdf", "reason": said["unreadable"][0]["reason"]}]
    assert "is locked" in said["unreadable"][0]["reason"]


def test_a_killed_sync_loses_nothing(read, folder, monkeypatch):
    read("docs")
    old = {d.name: d for d in MemoryStore.open("x.memory").documents}
    (folder / "notes.md").write_text("changed " * 60)
    (folder / "table.csv").unlink()
    real, calls = writer.Writer._block, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "_block", killed)
        assert read("docs", "--sync", code=130).endswith("goes on\nstopped\n")
    assert len(calls) == 4
    store = MemoryStore.open("x.memory")
    assert not store.damaged and {d.name: d for d in store.documents} == old
    read("docs", "--sync")
    assert "docs/table.csv" not in names()
    assert MemoryStore.open("x.memory").manifest.document("docs/notes.md").characters == 480


def test_append_says_how_to_take_up_a_changed_file(read, folder):
    read("docs")
    (folder / "notes.md").write_text("changed")
    assert "--sync, which takes changed files up" in read("docs", "--append", code=2)


def test_unreadable_files_are_listed(run, read, folder, small_folder):
    (folder / "photo.png").write_bytes(b"\x89PNG\0")
    (folder / "empty.txt").write_text("")
    code, _, err = run("read", "docs", "-o", "x.memory", "--keep-all", "--model", small_folder)
    lines = err.splitlines()
    assert code == 0 and lines[0] == "2 files could not be read:" and len(lines) == 4
    assert lines[1].strip().startswith("docs/empty.txt is empty") and "photo.png is of a kind" in lines[2]
    # Named alone, each is an error, and the memory stays.
    before = names()
    assert read("docs/photo.png", "--append", code=2).startswith("error: docs/photo.png is of a kind")
    assert names() == before


def test_empty_files_that_are_named_are_listed(run, read, folder, small_folder):
    """As in folders; if all are empty, there is nothing to read."""
    (folder / "empty.txt").write_text("")
    (folder / "blank.csv").write_text(" \n")
    said = read("docs/notes.md", "docs/empty.txt", "docs/blank.csv", "docs/table.csv")
    assert names() == ["docs/notes.md", "docs/table.csv"]
    reasons = [f"docs/{name} is empty: there is nothing to read." for name in ("empty.txt", "blank.csv")]
    assert [entry["reason"] for entry in said["unreadable"]] == reasons
    code, _, err = run("read", "docs/notes.md", "docs/empty.txt", "-o", "x.memory", "--append", "--model", small_folder)
    assert code == 0 and f"1 file could not be read:\n  {reasons[0]}\n" in err
    err = read("docs/empty.txt", "docs/blank.csv", "--append", code=2)
    assert err == f"error: {reasons[0]} 1 more can't be read either.\n"
    assert names() == ["docs/notes.md", "docs/table.csv"]


@pytest.mark.parametrize("arguments", [["docs/photo.png"], ["empty"], ["only"], ["docs", "docs/photo.png"]])
def test_an_error_leaves_no_memory(read, folder, tmp_path, arguments):
    (folder / "photo.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.bin").write_bytes(bytes(9))
    err = read(*arguments, code=2)
    assert err.count("\n") == 1 and err.startswith("error: ") and not (tmp_path / "x.memory").exists()


def test_contradictions_are_refused(read):
    assert "--sync and --replace are both given" in read("docs", "--sync", "--replace", code=2)


def test_info_shows_titles(run, read):
    read("docs")
    sources = json.loads(run("info", "x.memory", "--json")[1])["sources"]
    assert [source.get("title") for source in sources if source["name"] == "docs/report.pdf"] == ["The report"]


def test_sync_with_an_emptied_folder_drops_nothing(read, folder, tmp_path):
    """A disk that is not mounted looks the same."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "z.txt").write_text("The gate opens at nine.\n")
    read("docs", "more")
    (tmp_path / "more" / "z.txt").unlink()
    said = read("docs", "more", "--sync", code=2)
    assert "more holds no file now" in said and "memory forget" in said and "more/z.txt" in names()
    alone = read("more", "--sync", code=2)
    for line in (said, alone):
        assert "x.memory stays as it is; `sharedllm memory forget" in line
    assert "more holds no file to read: hidden files" in alone and "more/z.txt" in names()
