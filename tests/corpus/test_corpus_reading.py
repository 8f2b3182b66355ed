"""Reading a corpus in one process: what is committed, what is done again, what is refused."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
from combined import combined
from corpora import documents, objects, run

from sharedllm.corpus import reader
from sharedllm.corpus.engines import OneProcess, Workers
from sharedllm.corpus.manifest import read_manifest, read_part, write_part
from sharedllm.corpus.objects import Place, named
from sharedllm.corpus.opening import open_corpus
from sharedllm.store.writer import writing
from sharedllm.utils.errors import UserError


@pytest.fixture
def docs(tmp_path):
    return documents(tmp_path / "docs")


def test_two_runs_give_equal_bytes(docs, corpus_model, tmp_path):
    first, second = run(corpus_model, docs, tmp_path / "a"), run(corpus_model, docs, tmp_path / "b")
    assert (first.documents, first.shards, first.shards_read, first.unreadable) == (6, 3, 3, [])
    assert first.tokens_read == second.tokens_read == first.tokens > 0
    assert objects(tmp_path / "a") == objects(tmp_path / "b")


def test_blocks_are_those_of_a_memory(docs, corpus_model, model, tmp_path, small_blocks):
    run(corpus_model, docs, tmp_path / "a")
    corpus = open_corpus(tmp_path / "a")
    place = Place(tmp_path / "a")
    part = next(part for part in _parts(place) if len(part.documents) > 1)
    with writing(tmp_path / "one.memory") as writer:
        writer.begin(model, corpus.manifest.settings.tokenizer)
        from stores import TOKENIZER

        for document in part.documents:
            text = Path(document.name).read_text()
            writer.read(model, TOKENIZER, document.name, [text], origin=document.origin, batch_tokens=256)
    files = sorted((tmp_path / "one.memory" / "blocks").iterdir())
    spans = [tuple(map(int, block.file.split("+"))) for document in part.documents for block in document.blocks]
    found = place.ranges(part.blocks.name, [(start, start + size) for start, size in spans])
    assert len(found) > 1 and sorted(found) == sorted(file.read_bytes() for file in files)


def _parts(place):
    return [read_part(place, name.removesuffix(".json")) for name in sorted(place.names("parts"))]


def test_again_does_nothing(docs, corpus_model, tmp_path):
    run(corpus_model, docs, tmp_path / "a")
    before = objects(tmp_path / "a")
    again = run(corpus_model, docs, tmp_path / "a", engine=None)
    assert (again.shards_read, again.shards_known, again.tokens_read, again.documents) == (0, 3, 0, 6)
    assert objects(tmp_path / "a") == before


def test_only_what_changed_is_read_again(docs, corpus_model, tmp_path):
    run(corpus_model, docs, tmp_path / "a")
    (docs / "5.txt").write_text("The new heron of the harbour.\n")
    (docs / "6.txt").write_text("And one more.\n")
    again = run(corpus_model, docs, tmp_path / "a")
    assert (again.shards_read, again.shards_known, again.documents) == (1, 2, 7)
    fresh = run(corpus_model, docs, tmp_path / "b")
    assert fresh.documents == 7
    names = {d["name"] for d in open_corpus(tmp_path / "a").contents}
    assert len(names) == 7
    both = [objects(tmp_path / name)["corpus.json"] for name in "ab"]
    assert both[0] == both[1], "what changed leaves no trace in what is visible"


@pytest.fixture(scope="module")
def whole(corpus_model, tmp_path_factory):
    """Documents, and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    run(corpus_model, documents(folder / "docs"), folder / "c")
    return folder / "docs", objects(folder / "c")


class Stops(Exception):
    pass


@pytest.mark.parametrize("moment", ["blocks", "index", "part"])
def test_what_ends_in_the_middle_is_done_the_next_time(whole, corpus_model, tmp_path, monkeypatch, moment):
    """The second shard's blocks, index or part is the last thing before the run is killed."""
    docs, uninterrupted = whole
    real, count = Place.put, {"blocks": 0, "index": 0}

    def put(self, name, file):
        kind = name.rpartition(".")[2]
        count[kind] += 1
        if count[kind] == 2 and kind == moment:
            real(self, name, file)
            raise Stops
        real(self, name, file)

    def commit(place, part):
        if count["index"] == 2 and moment == "part":
            raise Stops
        write_part(place, part)

    with monkeypatch.context() as patched:
        patched.setattr(Place, "put", put)
        patched.setattr(reader, "write_part", commit)
        with pytest.raises(Stops):
            run(corpus_model, docs, tmp_path / "a")
    with pytest.raises(UserError, match="not read to its end"):
        open_corpus(tmp_path / "a")
    again = run(corpus_model, docs, tmp_path / "a")
    assert (again.shards_known, again.shards_read) == (1, 2)
    assert objects(tmp_path / "a") == uninterrupted, "nothing is lost, nothing is there twice"


@pytest.mark.parametrize(("where", "number"), [("Writer.read", errno.EDQUOT), ("_packed", errno.ENOSPC)])
def test_a_full_disk_ends_the_run_and_no_document_is_blamed(whole, corpus_model, tmp_path, monkeypatch, where, number):
    docs, uninterrupted = whole

    def full(*_, **__):
        raise OSError(number, "full")

    with monkeypatch.context() as patched:
        patched.setattr(f"sharedllm.corpus.reader.{where}", full)
        with pytest.raises(UserError, match=r"the disk of .* is full: free space, or set TMPDIR\. 0 of 3 shards"):
            run(corpus_model, docs, tmp_path / "a")
    assert run(corpus_model, docs, tmp_path / "a").unreadable == []
    assert objects(tmp_path / "a") == uninterrupted


def test_poison_is_listed_and_not_fatal(docs, corpus_model, tmp_path, monkeypatch):
    (docs / "1b.txt").write_text("")
    (docs / "2b.pdf").write_bytes(b"%PDF-1.4 broken")
    (docs / "records.jsonl").write_text('{"text": "good and whole"}\n{"text": \n{"text": "a", "text": "b"}\n')
    real = reader.counted

    def fails(pieces):
        if any("cedar" in piece for piece in pieces):
            raise ZeroDivisionError("in a library")
        return real(pieces)

    monkeypatch.setattr(reader, "counted", fails)
    report = run(corpus_model, docs, tmp_path / "a")
    assert report.documents == 6, "five files and one record"
    said = {name.rpartition("/")[2]: reason for name, reason in report.unreadable}
    assert said.keys() == {"1b.txt", "2b.pdf", "records.jsonl:2", "records.jsonl:3", "2.txt"}
    assert "is empty" in said["1b.txt"] and "ZeroDivisionError: in a library" in said["2.txt"]
    assert "records.jsonl:3: 'text' is there twice" in said["records.jsonl:3"]
    assert read_manifest(Place(tmp_path / "a")).totals.failed == 5
    assert {d["name"].rpartition("/")[2] for d in open_corpus(tmp_path / "a").contents} == {
        "0.txt", "1.txt", "3.txt", "4.txt", "5.txt", "records.jsonl:1",
    }  # fmt: skip


def test_of_two_documents_of_one_name_the_first_is_read(docs, corpus_model, tmp_path, monkeypatch):
    real = reader.texts
    monkeypatch.setattr(reader, "texts", lambda *given: [*real(*given), next(iter(real(*given)))])
    report = run(corpus_model, docs, tmp_path / "a", shard_bytes=10_000)
    assert (report.documents, report.shards) == (6, 1)
    ((name, reason),) = report.unreadable
    assert name == f"{docs}/0.txt" and reason == f"{docs}/0.txt is named twice: only the first is read."


def test_an_ordinary_model_is_refused_before_its_weights_are_loaded(docs, tmp_path, no_weights):
    with pytest.raises(
        UserError, match=r"^base is an ordinary LlamaForCausalLM: make a SharedLLM from it with `sharedllm extend`"
    ):
        run("base", docs, tmp_path / "a")


def test_nothing_but_poison(tmp_path, corpus_model):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(" ")
    with pytest.raises(UserError, match=r"no document that can be read: .*a\.txt is empty"):
        run(corpus_model, tmp_path / "docs", tmp_path / "a")
    assert read_manifest(Place(tmp_path / "a")) is None, "a corpus that can't be asked is not begun"
    (tmp_path / "docs" / "a.txt").unlink()
    with pytest.raises(UserError, match="holds no file to read"):
        run(corpus_model, tmp_path / "docs", tmp_path / "a")
    assert read_manifest(Place(tmp_path / "a")) is None
    (tmp_path / "docs" / "b.txt").write_text("Now there is something to read.")
    assert run(corpus_model, tmp_path / "docs", tmp_path / "a").documents == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"fingerprint": "f" * 32}, "fingerprint='ffff"),
        ({"batch_tokens": 7}, "batch_tokens=7"),
        ({"storage": "int8"}, "storage"),
    ],
)
def test_another_corpus_is_refused_with_the_field(docs, corpus_model, tmp_path, monkeypatch, changed, field):
    real = reader.settings_of
    from sharedllm.corpus import run as running

    with monkeypatch.context() as patched:
        patched.setattr(running, "settings_of", lambda *a: replace(real(*a), **changed))
        with pytest.raises(UserError):  # the reader has other settings
            run(corpus_model, docs, tmp_path / "a", engine=lambda *_: iter([_failed()]))
    before = objects(tmp_path / "a")
    with pytest.raises(UserError, match=field):
        run(corpus_model, docs, tmp_path / "a")
    assert objects(tmp_path / "a") == before


def _failed():
    return reader.Outcome("", error="not read.")


@pytest.mark.parametrize(
    ("uri", "fix"),
    [
        ("here.corpus", "can't be used: Permission denied; ask for the right to it"),
        ("file:///here", "can't be used: Permission denied; ask for the right to it"),
        ("s3://there/notes", "can't be used: no permission .*; check the credentials and the bucket's rules"),
    ],
)
def test_only_a_bucket_has_rules(uri, fix):
    with pytest.raises(UserError, match=f"{uri} {fix}"), named(uri):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_folder_of_something_else_is_left_alone(docs, corpus_model, model, tmp_path):
    """Such as a memory. What only a corpus has may be there already, and hidden files."""
    with writing(tmp_path / "one.memory") as writer:
        writer.begin(model, "tokenizer")
        writer.commit()
    before = objects(tmp_path / "one.memory")
    with pytest.raises(UserError, match=r"one\.memory is no corpus, and holds (blocks|manifest\.json): choose another"):
        run(corpus_model, docs, tmp_path / "one.memory")
    assert objects(tmp_path / "one.memory") == before
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a\.txt can't be used: it is a file, or lies in one; name a folder"):
        run(corpus_model, docs, tmp_path / "a.txt")
    (tmp_path / "b" / "parts").mkdir(parents=True)
    (tmp_path / "b" / ".DS_Store").touch()
    assert run(corpus_model, docs, tmp_path / "b").documents == 6


def test_a_store_that_fails_leaves_what_is_committed(docs, corpus_model, tmp_path, monkeypatch):
    real, count = Place.put, []

    def put(self, name, file):
        count.append(name)
        if len(count) > 2:
            raise UserError("the bucket is gone.")
        real(self, name, file)

    with monkeypatch.context() as patched:
        patched.setattr(Place, "put", put)
        with pytest.raises(
            UserError, match=r"the bucket is gone\. 1 of 3 shards are committed; the same command does the rest"
        ):
            run(corpus_model, docs, tmp_path / "a")
    assert run(corpus_model, docs, tmp_path / "a").shards_known == 1


@pytest.mark.parametrize(("kind", "how"), combined(["corpus", "part", "index"], ["cut", "flip", "other"]))
def test_damage_is_named(docs, corpus_model, tmp_path, kind, how):
    run(corpus_model, docs, tmp_path / "a")
    path = {"corpus": "corpus.json", "part": "parts/*.json", "index": "index/*.index"}[kind]
    (file, *_) = sorted((tmp_path / "a").glob(path))
    raw = file.read_bytes()
    middle = len(raw) // 2
    file.write_bytes(
        {"cut": raw[:middle], "flip": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :], "other": b"{}"}[how]
    )
    with pytest.raises(UserError, match=r"is damaged: (it can't be read|its checksum does not match)"):
        _ = run(corpus_model, docs, tmp_path / "a") if kind == "part" else open_corpus(tmp_path / "a")


def test_fields_of_a_manifest_are_checked(docs, corpus_model, tmp_path):
    run(corpus_model, docs, tmp_path / "a")
    place = Place(tmp_path / "a")
    from sharedllm.corpus.manifest import FORMAT, _written

    content = json.loads(place.read("corpus.json"))
    for change, said in [
        ({"index": {"name": "../x", "nbytes": 1, "sha256": "0" * 64}}, "index.name"),
        ({"settings": {}}, "settings"),
    ]:
        place.write("corpus.json", _written(FORMAT, {k: v for k, v in content.items() if k != "checksum"} | change))
        with pytest.raises(UserError, match=said):
            read_manifest(place)


def test_the_command_and_its_table(docs, corpus_model, tmp_path, run):
    code, out, err = run("read-corpus", docs, "-o", tmp_path / "a", "--model", corpus_model, "--workers", 0, "--json")
    assert code == 0 and json.loads(out)["documents"] == 6 and json.loads(out)["unreadable"] == [], err
    code, _, err = run("read-corpus", docs, "-o", tmp_path / "a", "--model", corpus_model, "--workers", 0)
    assert code == 0 and "shards that were there" in err and "sharedllm ask" in err
    for arguments, said in [
        ((docs, "-o", "odd://x"), "of a kind that can't be read"),
        ((tmp_path / "none", "-o", tmp_path / "b"), "does not exist"),
        ((docs, "-o", tmp_path / "b", "--gpus", "1"), "--gpus needs --workers"),
    ]:
        code, _, err = run("read-corpus", *arguments, "--model", corpus_model, "--workers", 0)
        assert code == 2 and said in err, err


def test_an_engine_takes_what_is_left(docs, corpus_model, tmp_path):
    seen = []

    def engine(model, uri, settings, shards):
        seen.append(len(shards))
        yield from OneProcess()(model, uri, settings, shards)

    run(corpus_model, docs, tmp_path / "a", engine=engine)
    run(corpus_model, docs, tmp_path / "a", engine=engine)
    assert seen == [3], "with nothing left no engine is started"


@pytest.mark.slow  # imports Ray
def test_no_cluster_at_an_address(docs, corpus_model, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*; start one"):
        run(corpus_model, docs, tmp_path / "a", engine=Workers(1, address="127.0.0.1:1"))
