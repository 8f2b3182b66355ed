"""Only files that are provably the store's own are removed, and blocks without a manifest can be opened again."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from stores import TOKENIZER, build, model_of, words

from sharedllm.documents.places import Origin
from sharedllm.memory.opening import open_file
from sharedllm.store import MemoryStore
from sharedllm.store import writer as edit
from sharedllm.store.recover import recover
from sharedllm.store.sealed import checksum
from sharedllm.store.writer import writing

TEXTS = {"one": words(100, 1), "two": words(40, 2)}


pytestmark = pytest.mark.usefixtures("small_blocks")


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.parametrize("how", ["read", "append", "forget", "merge"])
def test_blocks_without_a_manifest_are_never_swept(tmp_path, model, how):
    folder = tmp_path / "a.memory"
    build(folder, model, TEXTS)
    build(tmp_path / "b.memory", model, {"three": words(20)})
    (folder / "manifest.json").unlink()
    before = contents(folder)

    def change():
        with writing(folder) as writer:
            if how == "read":
                writer.begin(model, "tok")
            if how == "merge":
                writer.merge(tmp_path / "b.memory")
            writer.commit()

    with pytest.raises(ValueError, match=r"has blocks of a memory but no manifest\.json .*sharedllm memory recover"):
        change()
    assert contents(folder) == before and len(before) == 6


def test_a_foreign_folder_of_blocks_is_never_emptied(tmp_path, model):
    folder = tmp_path / "mine"
    (folder / "blocks").mkdir(parents=True)
    (folder / "blocks" / "red.txt").write_text("my own")
    with pytest.raises(ValueError, match="a folder with other content"):
        build(folder, model, TEXTS)
    assert contents(folder) == {"blocks/red.txt": b"my own"}
    # Nor in our own memory, whatever files are put into it.
    store = build(tmp_path / "a.memory", model, TEXTS)
    laid = tmp_path / "a.memory" / "blocks" / "notes.memory"
    laid.write_text("my own")
    with writing(store.folder) as writer:
        writer.forget("one")
    assert laid.read_text() == "my own" and len(list(laid.parent.iterdir())) == 3


def test_blocks_that_are_a_link_are_never_emptied(tmp_path, model):
    theirs = build(tmp_path / "a.memory", model, TEXTS)
    before = contents(theirs.folder)
    (tmp_path / "b.memory").mkdir()
    (tmp_path / "b.memory" / "blocks").symlink_to(theirs.folder / "blocks")
    with pytest.raises(ValueError, match="is a link or a file"):
        build(tmp_path / "b.memory", model, {"three": words(20)})
    assert contents(theirs.folder) == before


def test_a_manifest_beside_other_blocks_removes_nothing(tmp_path, model):
    """As if a manifest was restored from another memory's copy."""
    build(tmp_path / "a.memory", model, TEXTS)
    build(tmp_path / "b.memory", model, {"three": words(20)})
    (tmp_path / "a.memory" / "manifest.json").write_bytes((tmp_path / "b.memory" / "manifest.json").read_bytes())
    before = contents(tmp_path / "a.memory")
    with writing(tmp_path / "a.memory"):
        pass
    assert contents(tmp_path / "a.memory") == before


def test_a_failure_takes_away_only_what_it_made(tmp_path, model):
    folder = tmp_path / "a.memory"
    folder.mkdir()

    def stopped():
        with writing(folder) as writer:
            writer.begin(model, "tok")
            (folder / "note").write_text("laid here meanwhile")
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stopped()
        assert contents(folder) == {"note": b"laid here meanwhile"} and [p.name for p in folder.iterdir()] == ["note"]
        (folder / "note").unlink()


@torch.no_grad()
def test_recover_makes_a_memory_of_the_blocks(tmp_path, model):
    folder, said = tmp_path / "a.memory", []
    store = build(folder, model, TEXTS)
    with writing(folder) as writer:
        writer.read(model, TOKENIZER, "two", [TEXTS["two"] + words(9, 3)])
    store = MemoryStore.open(folder)
    before = store.load()
    (folder / "manifest.json").write_text("{")
    kept = contents(folder)
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok", said.append)
    assert contents(folder) == kept and not said
    new = MemoryStore.open(tmp_path / "new.memory", fingerprint=model.fingerprint(), tokenizer="tok")
    assert new.documents == store.documents
    after = new.load()
    assert torch.equal(after.token_ids, before.token_ids) and torch.equal(after.keys[0], before.keys[0])
    assert new.manifest.complete and new.manifest.storage == "model"
    with writing(new.folder) as writer:  # reading goes on there
        assert writer.read(model, TOKENIZER, "one", [TEXTS["one"] + "abc"]) == 3


@torch.no_grad()
def test_recovered_documents_are_whole_and_in_their_order(tmp_path, model):
    """Whatever the times of their files: a document that grew has a newer one, and copies may all have the same."""
    folder, texts = tmp_path / "a.memory", {f"{i}": words(20, i) for i in range(6)}
    build(folder, model, texts)
    with writing(folder) as writer:
        writer.forget("1", "2")
        writer.read(model, TOKENIZER, "6", [words(20, 6)])
        writer.read(model, TOKENIZER, "0", [texts["0"] + words(70, 7)])
        writer.read(model, TOKENIZER, "3", [words(33, 8)], anew=True)
        writer.read(model, TOKENIZER, "5", iter([texts["5"], words(30, 9), words(30, 9)]))
    before = MemoryStore.open(folder).documents
    paths = [folder / "blocks" / f"{b.file}.memory" for d in before for b in d.blocks]
    for time_, path in enumerate(reversed(paths)):
        os.utime(path, (time_, time_))
    (folder / "manifest.json").unlink()
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok")
    assert [d.name for d in before] == ["0", "3", "4", "5", "6"] and all(d.finished for d in before)
    assert MemoryStore.open(tmp_path / "new.memory").documents == before
    paths[2].unlink()  # the last one of the first document
    recover(folder, tmp_path / "newer.memory", TOKENIZER, "tok")
    assert [d.finished for d in MemoryStore.open(tmp_path / "newer.memory").documents] == [False] + 4 * [True]


@torch.no_grad()
def test_a_document_that_grew_is_not_whole_without_its_new_end(tmp_path, model):
    """Even if it had ended where a block is full."""
    folder, text = tmp_path / "a.memory", words(96, 1)
    build(folder, model, {"a": text[:64]})
    with writing(folder) as writer:
        assert writer.read(model, TOKENIZER, "a", [text]) == 32
    (grown,) = MemoryStore.open(folder).documents
    (at_once,) = build(tmp_path / "b.memory", model, {"a": text}).documents
    assert [replace(b, file="", sha256="") for b in grown.blocks] == [
        replace(b, file="", sha256="") for b in at_once.blocks
    ]
    (folder / "manifest.json").unlink()
    (folder / "blocks" / f"{grown.blocks[2].file}.memory").unlink()
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok")
    (new,) = MemoryStore.open(tmp_path / "new.memory").documents
    assert (new.tokens, new.finished) == (64, False)


@torch.no_grad()
def test_recover_keeps_the_places_of_documents(tmp_path, model):
    folder, text = tmp_path / "a.memory", "".join(f"line {i}.\n" for i in range(20))
    places = tuple((text.index(f"line {i}."), f'section "{i}"') for i in (1, 2, 9, 15, 17))
    origin = Origin("0" * 64, "A title", "line", places)
    with writing(folder) as writer:
        writer.begin(model, "tok")
        writer.read(model, TOKENIZER, "a.md", [text[:70]], origin=origin.within(0, 70))  # the last block is read again
        writer.read(model, TOKENIZER, "a.md", [text[:120], text[120:]], origin=origin)
    store = MemoryStore.open(folder)
    (folder / "manifest.json").unlink()
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok")
    (new,) = MemoryStore.open(tmp_path / "new.memory").documents
    assert new.origin == replace(origin, sha256="") and new.blocks == store.documents[0].blocks
    # Without its second block, lines of the rest can't be counted, but its sections are known.
    (folder / "blocks" / f"{new.blocks[1].file}.memory").unlink()
    recover(folder, tmp_path / "newer.memory", TOKENIZER, "tok")
    first, rest = MemoryStore.open(tmp_path / "newer.memory").documents
    assert first.origin == Origin("", "A title", "line", places[:2]) and rest.name == "a.md from 64"
    moved = tuple((character - 64, place) for character, place in places[2:])
    assert rest.origin == Origin("", "A title", "", ((0, places[1][1]), *moved))


def test_recover_says_what_is_lost(tmp_path, model):
    folder, said = tmp_path / "a.memory", []
    store = build(folder, model, TEXTS)
    build(tmp_path / "other.memory", model_of(chunk_size=8), {"x": words(10)})
    (other,) = (tmp_path / "other.memory" / "blocks").iterdir()
    (folder / "blocks" / other.name).write_bytes(other.read_bytes())
    blocks = [folder / "blocks" / f"{b.file}.memory" for b in store.documents[0].blocks]
    data = bytearray(blocks[1].read_bytes())
    data[-1] ^= 1
    blocks[1].write_bytes(data)
    (folder / "blocks" / f"{'0' * 32}.memory").symlink_to(tmp_path / "nothing")
    (folder / "manifest.json").unlink()
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok", said.append)
    new = MemoryStore.open(tmp_path / "new.memory")
    assert [(d.name, d.tokens, d.finished) for d in new.documents] == [
        ("one", 32, False), ("one from 64", 36, False), ("two", 40, True)
    ]  # fmt: skip
    assert (
        len(said) == 3
        and any("0" * 32 in line for line in said)
        and any("checksum" in line for line in said)
        and any("another model" in line for line in said)
    )
    with pytest.raises(ValueError, match="made with another tokenizer: use the model that made it"):
        recover(folder, tmp_path / "newer.memory", TOKENIZER, "other")
    with pytest.raises(ValueError, match="holds documents already"):
        recover(folder, tmp_path / "new.memory", TOKENIZER, "tok")
    for block in blocks:
        block.write_bytes(b"")
    (tmp_path / "none.memory" / "blocks").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no undamaged block"):
        recover(tmp_path / "none.memory", tmp_path / "newer.memory", TOKENIZER, "tok")
    build(tmp_path / "emptied.memory", model, {})
    with pytest.raises(ValueError, match=r"emptied\.memory holds no document, so there is nothing to recover"):
        recover(tmp_path / "emptied.memory", tmp_path / "newer.memory", TOKENIZER, "tok")
    assert not (tmp_path / "newer.memory").exists()


@torch.no_grad()
def test_recover_beside_a_manifest_takes_what_it_names(tmp_path, model):
    """No older version of a text returns, whichever file is newer; what the manifest names and is lost is said."""
    folder, said = tmp_path / "a.memory", []
    store = build(folder, model, TEXTS | {"three": words(40, 3), "four": words(20, 4)})
    old = {path: path.read_bytes() for path in (folder / "blocks").iterdir()}
    with writing(folder) as writer:
        writer.read(model, TOKENIZER, "two", [words(39, 5)], anew=True)
        writer.forget("four")
    before = MemoryStore.open(folder).documents
    for path in old.keys() - set((folder / "blocks").iterdir()):
        path.write_bytes(old[path])  # left by a killed writer, copied last
    recover(folder, tmp_path / "whole.memory", TOKENIZER, "tok", said.append)
    assert MemoryStore.open(tmp_path / "whole.memory").documents == before
    assert len(said) == 3 and all("is none of the blocks that manifest.json names" in line for line in said)
    one, _, three = before
    (folder / "blocks" / f"{one.blocks[0].file}.memory").unlink()
    for block in three.blocks:
        (folder / "blocks" / f"{block.file}.memory").unlink()
    said.clear()
    recover(folder, tmp_path / "rest.memory", TOKENIZER, "tok", said.append)
    rest = MemoryStore.open(tmp_path / "rest.memory").documents
    assert [(d.name, d.tokens) for d in rest] == [("one from 32", 68), ("two", 39)] and rest[1] == before[1]
    assert [d.part_of for d in rest] == ["one", ""]
    assert said[3:] == [
        f"left out: {name}, tokens {span}: blocks/{block.file}.memory is missing or damaged"
        for name, span, block in (
            ("one", "0–32", one.blocks[0]), ("three", "0–32", three.blocks[0]), ("three", "32–40", three.blocks[1])
        )
    ]  # fmt: skip
    assert store.documents[1] != before[1]


def test_recover_takes_all_blocks_beside_the_manifest_of_another_memory(tmp_path, model):
    folder = tmp_path / "a.memory"
    build(folder, model, TEXTS)
    other = build(tmp_path / "b.memory", model, {"three": words(20)})
    (folder / "manifest.json").write_bytes((other.folder / "manifest.json").read_bytes())
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok")
    assert [d.name for d in MemoryStore.open(tmp_path / "new.memory").documents] == ["one", "two"]


def test_recover_blocks_of_before_which_name_no_document(tmp_path, model, monkeypatch):
    real = edit.save_memory

    def nameless(memory, *arguments, **options):
        time.sleep(0.02)  # file systems distinguish times by some milliseconds
        return real(edit.replace(memory, sources=()), *arguments, **options)

    monkeypatch.setattr(edit, "save_memory", nameless)
    folder = tmp_path / "a.memory"
    texts = [words(32, seed) for seed in range(3)]
    build(folder, model, {"one": "".join(texts)})
    (folder / "manifest.json").unlink()
    recover(folder, tmp_path / "new.memory", TOKENIZER, "tok")
    new = MemoryStore.open(tmp_path / "new.memory")
    assert [d.name for d in new.documents] == ["recovered", "recovered 2", "recovered 3"]
    assert TOKENIZER.decode(new.load().token_ids[0]) == "".join(texts)


def test_merge_of_a_damaged_store_says_which_document(tmp_path, model):
    store = build(tmp_path / "a.memory", model, TEXTS)
    path = store.folder / "blocks" / f"{store.documents[1].blocks[0].file}.memory"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with (
        pytest.raises(
            ValueError, match=r"two of .*a\.memory is damaged, so nothing is merged: .*checksum.*`sharedllm read"
        ),
        writing(tmp_path / "new.memory") as writer,
    ):
        writer.merge(store.folder)
    assert not (tmp_path / "new.memory").exists()


def test_a_killed_merge_does_not_block_the_next(tmp_path, model, run):
    store = build(tmp_path / "a.memory", model, TEXTS)
    output = tmp_path / "new.memory"
    child = os.fork()
    if child == 0:
        try:
            with writing(output) as writer:
                writer.merge(store.folder)
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list((output / "blocks").iterdir())) == 6
    assert run("memory", "merge", store.folder, "-o", output)[0] == 0
    merged = MemoryStore.open(output)
    assert [d.name for d in merged.documents] == ["one", "two"] and not merged.damaged
    assert run("memory", "merge", store.folder, "-o", output)[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"pairs": 10**9}, "pairs=1000000000 is not a whole number from 0"),
        (lambda m: m | {"complete": 1}, "complete=1 is not true or false"),
        (lambda m: m | {"chunk_size": 0}, "chunk_size=0 is not"),
        (lambda m: m | {"documents": {}}, "documents={} is not a list"),
        (lambda m: m["documents"][0].update(name=7) or m, r"documents\[0\]\.name=7 is not"),
        (lambda m: m["documents"][0].update(blocks=[]) or m, r"blocks=\[\] is not a list of 1 or more"),
        (lambda m: m["documents"][0]["blocks"][0].update(tokens=-1) or m, r"blocks\[0\]\.tokens=-1 is not"),
        (lambda m: m["documents"][0]["blocks"][0].update(tokens=1.5) or m, r"tokens=1\.5 is not a whole number"),
        (lambda m: m["documents"][0]["blocks"][0].update(tokens=10**30) or m, "tokens=10+ is not a whole number"),
        (lambda m: m["documents"][0]["blocks"][0].update(tokens=33) or m, "'one' ends within a chunk of 16"),
        (lambda m: m["documents"][0]["blocks"][0].update(file="../../x") or m, r"file='\.\./\.\./x' is not a text"),
        (lambda m: m["documents"][0]["blocks"][0].pop("characters") and m, "characters is missing"),
        (lambda m: m["documents"][1].update(name="one") or m, "two documents have one name"),
        (lambda m: m["documents"][1].update(blocks=m["documents"][0]["blocks"]) or m, "a block is named twice"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, model, change, message):
    """Even with a matching checksum: another program may have written it."""
    path = build(tmp_path / "a.memory", model, TEXTS).folder / "manifest.json"
    content = change({k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"})
    path.write_text(json.dumps(content | {"checksum": checksum(content)}))
    with pytest.raises(ValueError, match=f"manifest.json is damaged: .*{message}"):
        MemoryStore.open(path.parent)


def test_a_manifest_nested_without_end_is_refused(tmp_path, model):
    path = build(tmp_path / "a.memory", model, TEXTS).folder / "manifest.json"
    path.write_text('{"format": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match="is damaged: it can't be read"):
        MemoryStore.open(path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["documents"][0]["blocks"][0].update(tokens=16) or m,
            r"has tokens \[32\], the manifest says \[16\]",
        ),
        (lambda m: m | {"pairs": 1}, "has layers 3, the manifest says 1"),
        (lambda m: m | {"storage": "int8"}, "has storage model, the manifest says int8"),
        (lambda m: m | {"fingerprint": "x"}, "has fingerprint .*, the manifest says x"),
        (lambda m: m | {"tokenizer": "x"}, "has tokenizer tok, the manifest says x"),
        (lambda m: m | {"chunk_size": 8}, "has chunk_size 16, the manifest says 8"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_manifest_and_its_blocks_agree(tmp_path, model, change, message, verify):
    path = build(tmp_path / "a.memory", model, {"one": words(60)}).folder / "manifest.json"
    content = change({k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"})
    path.write_text(json.dumps(content | {"checksum": checksum(content)}))
    (lost, *_) = MemoryStore.open(path.parent, verify=verify).damaged
    with pytest.raises(ValueError, match=message):
        raise ValueError(lost.reason)


def test_a_block_can_be_opened_by_itself(tmp_path, model):
    store = build(tmp_path / "a.memory", model, TEXTS)
    memory = open_file(store.folder / "blocks" / f"{store.documents[0].blocks[1].file}.memory")
    assert memory.sources == (({"name": "one", "tokens": 32, "from_token": 32, "place": 0},),)


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_a_document_without_a_name_is_refused_and_the_rest_stays(tmp_path, model, name):
    store = build(tmp_path / "a.memory", model, TEXTS)
    with writing(store.folder) as writer, pytest.raises(ValueError, match="is no name of a document"):
        writer.read(model, TOKENIZER, name, ["text"])
    assert [d.name for d in MemoryStore.open(store.folder).documents] == ["one", "two"]
