"""A damaged corpus: no wrong answer, all that is lost is named, and running the command again repairs it."""

import json
import shutil
from pathlib import Path

import pytest
from corpora import documents, objects
from corpora import run as read

from sharedllm.corpus.manifest import read_part
from sharedllm.corpus.objects import Lost, Place
from sharedllm.corpus.opening import open_corpus
from sharedllm.corpus.ranged import STEP
from sharedllm.corpus.steps import Steps
from sharedllm.utils.errors import UserError


@pytest.fixture(scope="module")
def whole(corpus_model, tmp_path_factory) -> Path:
    """A folder with documents and their corpus `c`, a shard for each; one has several steps of blocks."""
    folder = tmp_path_factory.mktemp("damage")
    documents(folder / "docs", 3)
    (folder / "docs" / "long.txt").write_text("The oak of the harbour sang. " * 50)
    read(corpus_model, folder / "docs", folder / "c", shard_bytes=1)
    return folder


@pytest.fixture
def corpus(whole, tmp_path) -> Path:
    shutil.copytree(whole / "c", tmp_path / "c")
    return tmp_path / "c"


def shard_of(corpus: Path, document: str) -> str:
    index = open_corpus(corpus).index
    (number,) = [i for i, name in enumerate(index.names) if name.endswith(f"/{document}")]
    return index.shards[int(index.owner[number])]


def object_of(corpus: Path, document: str, kind: str = "blocks") -> Path:
    (found,) = (corpus / "shards").glob(f"{shard_of(corpus, document)}-*.{kind}")
    return found


def invert(path: Path, start: int, end: int) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:start] + bytes(b ^ 255 for b in raw[start:end]) + raw[end:])


DAMAGE = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:1001]), r"is damaged: bytes 1,001–.* are missing; delete it and"),
    "cut early": (lambda p: p.write_bytes(p.read_bytes()[:3]), r"is damaged: bytes 3–.* are missing; delete it and"),
    "empty": (lambda p: p.write_bytes(b""), r"is damaged: bytes 0–.* are missing; delete it and"),
    "inverted": (lambda p: invert(p, 1000, 1200), r"is damaged: the checksum of bytes 0–.* does not match; delete it and"),
    "deleted": (Path.unlink, "is missing:"),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_no_answer_from_damaged_blocks(corpus, corpus_model, run, how):
    change, said = DAMAGE[how]
    blocks = object_of(corpus, "0.txt")
    change(blocks)
    code, out, err = run("ask", corpus, "ash?", "--model", corpus_model, "--max-new-tokens", 2)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {blocks} is "), err
    with pytest.raises(UserError, match=rf"^{blocks} {said} run the same `sharedllm read-corpus` again"):
        open_corpus(corpus).only(f"{_docs(corpus)}/0.txt")


def _docs(corpus: Path) -> str:
    return open_corpus(corpus).index.names[0].rpartition("/")[0]


def test_every_step_around_a_range_is_compared(corpus):
    place, blocks = Place(corpus), object_of(corpus, "long.txt")
    part, raw = read_part(place, shard_of(corpus, "long.txt")), blocks.read_bytes()
    assert part is not None and len(raw) > 2 * STEP
    steps, spans = Steps(place, part), [(5, 9), (STEP - 1, 2 * STEP + 1), (7, 7), (len(raw) - 2, len(raw))]
    assert steps(spans) == [raw[start:end] for start, end in spans] and steps([]) == []
    invert(blocks, STEP + 5, STEP + 6)
    assert steps([(0, STEP), (2 * STEP, len(raw))]) == [raw[:STEP], raw[2 * STEP :]]
    with pytest.raises(Lost, match=r"the checksum of bytes 131,072–262,144 does not match"):
        steps([(STEP - 1, STEP + 1)])


def test_ranges_that_are_not_there(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert Place(tmp_path).ranges("a", [(0, 10), (3, 5)]) == [b"0123456789", b"34"]
    with pytest.raises(Lost, match="a is damaged: bytes 10–12 are missing"):
        Place(tmp_path).ranges("a", [(0, 3), (8, 12)])


@pytest.mark.parametrize("how", DAMAGE)
def test_check_names_what_is_lost_and_reading_again_repairs(whole, corpus, corpus_model, run, how):
    assert run("memory", "check", corpus)[0] == 0
    assert run("memory", "check", f"file://{corpus}")[0] == 0
    change, _ = DAMAGE[how]
    blocks = object_of(corpus, "1.txt")
    change(blocks)
    code, out, _ = run("memory", "check", corpus)
    assert code == 1 and out.count("\n") == 1
    assert f"/1.txt: tokens 0–{_tokens(corpus, '1.txt')} are lost: {blocks} is " in out
    if "delete it" in out and how == "inverted":
        blocks.unlink()
    again = read(corpus_model, whole / "docs", corpus, shard_bytes=1)
    assert (again.shards_read, again.shards_known) == (1, 3) and objects(corpus) == objects(whole / "c")
    assert run("memory", "check", corpus)[0] == 0


def _tokens(corpus: Path, document: str) -> int:
    return next(d["tokens"] for d in open_corpus(corpus).contents if d["name"].endswith(f"/{document}"))


@pytest.mark.parametrize("how", ["inverted", "deleted"])
@pytest.mark.parametrize("kind", ["part", "shard's index"])
def test_other_objects_of_a_shard(whole, corpus, corpus_model, run, kind, how):
    """They are checked and repaired as blocks are."""
    name = f"parts/{shard_of(corpus, '1.txt')}.json" if kind == "part" else object_of(corpus, "1.txt", "index")
    path = corpus / name
    invert(path, 100, 110) if how == "inverted" else path.unlink()
    code, out, _ = run("memory", "check", corpus)
    assert code == 1 and out.count("\n") == 1 and f"{path} is {'damaged' if how == 'inverted' else 'missing'}: " in out
    assert ("/1.txt: tokens 0–" in out) == (kind == "part"), "an index of a shard is of no use to a question"
    if how == "inverted":
        with pytest.raises(UserError, match=rf"{path} is damaged: .*delete it and run the same"):
            read(corpus_model, whole / "docs", corpus, shard_bytes=1)
        path.unlink()
    read(corpus_model, whole / "docs", corpus, shard_bytes=1)
    assert objects(corpus) == objects(whole / "c")


def test_only_the_stretch_that_is_lost(docs, corpus_model, tmp_path, run, small_blocks):
    """Of a document in several blocks, those that a step with other bytes touches."""
    (docs / "long.txt").write_text("The oak of the harbour sang. " * 50)
    read(corpus_model, docs, tmp_path / "c", shard_bytes=1)
    blocks = object_of(tmp_path / "c", "long.txt")
    invert(blocks, blocks.stat().st_size - 1, blocks.stat().st_size)
    out = run("memory", "check", tmp_path / "c")[1]
    (document,) = read_part(Place(tmp_path / "c"), shard_of(tmp_path / "c", "long.txt")).documents
    last = blocks.stat().st_size // STEP * STEP
    touched = [sum(map(int, block.file.split("+"))) > last for block in document.blocks]
    assert out.count("/long.txt: tokens ") == sum(touched) and 0 < sum(touched) < len(touched)
    assert f"–{document.tokens:,} are lost" in out


@pytest.fixture
def docs(tmp_path) -> Path:
    return documents(tmp_path / "docs", 3)


@pytest.mark.parametrize("how", ["cut", "deleted", "inverted"])
def test_the_index_is_made_again(whole, corpus, corpus_model, run, how):
    (index,) = (corpus / "index").iterdir()
    DAMAGE[how][0](index)
    for command in (
        ("memory", "check", corpus),
        ("ask", corpus, "ash?", "--model", corpus_model, "--max-new-tokens", 2),
    ):
        code, _, err = run(*command)
        assert code == 2 and str(index) in err and "run the same `sharedllm read-corpus` again" in err
    if how == "inverted":
        index.unlink()
    assert read(corpus_model, whole / "docs", corpus, shard_bytes=1).shards_read == 0
    assert objects(corpus) == objects(whole / "c")


def test_documents_do_not_fall_out_unless_that_is_asked_for(docs, corpus_model, tmp_path, run):
    (docs / "r.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    corpus = tmp_path / "c"
    read(corpus_model, docs, corpus)
    before = objects(corpus)
    other = documents(tmp_path / "other", 1)
    command = ["read-corpus", other, "-o", corpus, "--model", corpus_model, "--workers", 0]
    options = ["--batch-tokens", 256, "--shard-bytes", 300]
    code, _, err = run(*command, *options)
    assert code == 2 and f"holds 5 documents, as {docs}/0.txt, that these sources lack: name them too, or drop" in err
    assert "--replace" in err and objects(corpus) == before
    (docs / "r.jsonl").write_text('{"text": "one more"}\n')
    with pytest.raises(UserError, match=rf"holds {docs}/r\.jsonl:2 that these sources lack"):
        read(corpus_model, docs, corpus)
    (docs / "r.jsonl").write_text('{"text": "one more"}\n{"text": "two"}\n{"text": "three"}\n')
    assert read(corpus_model, docs, corpus).documents == 6, "what grew or changed is no other source"
    code, out, err = run(*command, *options, "--replace", "--json")
    assert code == 0 and json.loads(out)["documents"] == 1, err
    assert open_corpus(corpus).index.names == [f"{other}/0.txt"]


def test_commands_for_memories_say_what_a_corpus_is(corpus, run, tmp_path):
    for command in (
        ["forget", corpus, "x"],
        ["merge", corpus, "-o", tmp_path / "m"],
        ["recover", corpus, "-o", tmp_path / "m"],
    ):
        code, _, err = run("memory", *command)
        assert code == 2 and err.count("\n") == 1
        assert f"{corpus} is a corpus, and this is for memories: run `sharedllm read-corpus`" in err
    assert not (tmp_path / "m").exists()
    (tmp_path / "a.txt").write_text("one more")
    before = objects(corpus)
    for option in ("--append", "--sync", "--replace", "--keep-all"):
        code, _, err = run("read", tmp_path / "a.txt", "-o", corpus, option)
        assert code == 2 and f"{corpus} is a corpus, and this is for memories: run `sharedllm read-corpus`" in err
    assert objects(corpus) == before
