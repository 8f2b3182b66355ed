"""Tokens on disk: they equal the tokenised text, splits follow the text, and nothing incomplete or foreign is used."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from sharedllm.cli import tokenize as command
from sharedllm.cli.app import app
from sharedllm.data.shard_writer import build_shards
from sharedllm.data.shards import TokenStore, check_tokenizer, tokenizer_fingerprint
from sharedllm.utils.text import tokenize

TEXTS = [f"Document {i}: " + "déjà vu, \U0001f43a. " * i for i in range(1, 13)]


@pytest.fixture(scope="module")
def tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t, "title": f"T{i}"}) + "\n" for i, t in enumerate(TEXTS)))
    return path


def words(*vocabulary: str, size: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    vocabulary += tuple(f"filler{i}" for i in range(size - len(vocabulary)))
    word_level = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=word_level)


class Letters(PreTrainedTokenizer):
    """A tokenizer without a backend in Rust."""

    def __init__(self, letters: str):
        self.letters = letters
        super().__init__()

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return {letter: i for i, letter in enumerate(self.letters)}

    def _tokenize(self, text, **_):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.letters.index(token)

    def _convert_id_to_token(self, index):
        return self.letters[index]


def contents(folder):
    return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def store(tmp_path_factory, tokenizer):
    """All texts in small shards; some documents are longer than a shard."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    build_shards([str(folder / "c.jsonl")], tokenizer, folder / "tokens", shard_tokens=150)
    return TokenStore(folder / "tokens")


@given(st.data())
def test_what_is_read_is_what_was_tokenised(store, tokenizer, data):
    document = data.draw(st.integers(0, len(TEXTS) - 1))
    ids = tokenize(tokenizer, TEXTS[document])[0].numpy()
    start = data.draw(st.integers(0, len(ids)))
    length = data.draw(st.integers(0, len(ids) - start))
    read = store.read(document, start, length)
    assert read.dtype == np.int64 and read.flags.writeable
    np.testing.assert_array_equal(read, ids[start : start + length])


def test_layout_on_disk(store, tokenizer):
    shards = store.manifest["splits"]["train"]["shards"]
    names = [f"tokens-{i:05d}.bin" for i in range(len(shards))]
    assert sorted(p.name for p in (store.folder / "train").iterdir()) == names == [s["file"] for s in shards]
    ids = np.concatenate([np.frombuffer((store.folder / "train" / n).read_bytes(), "<u2") for n in names])
    np.testing.assert_array_equal(ids, np.concatenate([tokenize(tokenizer, t)[0] for t in TEXTS]))
    columns = store.manifest["splits"]["train"]["documents"]
    for i, shard in enumerate(shards):
        inside = [n for n, s in zip(columns["tokens"], columns["shard"], strict=True) if s == i]
        assert sum(inside) * 2 == shard["bytes"]
        assert sum(inside) <= 150 or len(inside) == 1
    assert len(shards) > 3 and max(store.lengths) > 150
    assert sorted(p.name for p in store.folder.iterdir()) == ["manifest.json", "train"]


def test_fields(store, tokenizer):
    assert len(store) == len(store.names) == len(TEXTS)
    assert store.names[0].endswith("c.jsonl:1")
    assert store.lengths.tolist() == store.bytes.tolist() == [len(t.encode()) for t in TEXTS]
    assert store.lengths.dtype == np.int64
    assert store.vocab_size == 256
    assert store.tokenizer_fingerprint == tokenizer_fingerprint(tokenizer)
    totals = store.manifest["splits"]["train"]["totals"]
    assert totals == {"documents": 12, "tokens": sum(store.lengths), "bytes": sum(store.bytes), "duplicates": 0}
    store.verify()


def test_a_pickle_of_a_store_holds_its_path_only(store):
    data = pickle.dumps(store)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).read(3, 1, 9), store.read(3, 1, 9))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((12, 0, 1), "document=12 is not in .*: train holds 12 documents"),
        ((-1, 0, 1), "document=-1 is not in"),
        ((0, -1, 1), "start=-1, length=1 is outside document 0"),
        ((0, 0, -1), "start=0, length=-1 is outside document 0"),
        ((0, 0, 10_000), "start=0, length=10000 is outside document 0, .*c.jsonl:1: it has 29 tokens"),
        ((0, 30, 0), "start=30, length=0 is outside"),
    ],
)
def test_reading_outside_a_document(store, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        store.read(*arguments)


def test_splits_follow_text_and_seed_alone(tmp_path, corpus, tokenizer):
    def sides(folder, seed):
        return {name: split for split in ("train", "validation") for name in TokenStore(tmp_path / folder, split).names}

    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("".join(corpus.read_text().splitlines(keepends=True)[::-1]))
    summary = build_shards([str(corpus)], tokenizer, tmp_path / "a", validation=0.4)
    build_shards([str(backwards)], tokenizer, tmp_path / "b", validation=0.4, shard_tokens=50)
    build_shards([str(corpus)], tokenizer, tmp_path / "c", validation=0.4, seed=1)
    assert sides("a", 0) == sides("b", 0) != sides("c", 1)
    assert len(sides("a", 0)) == 12 == sum(split["documents"] for split in summary.splits.values())
    for split in ("train", "validation"):
        store = TokenStore(tmp_path / "a", split)
        for document, name in enumerate(store.names):
            ids = store.read(document, 0, int(store.lengths[document]))
            assert tokenizer.decode(ids) == TEXTS[int(name[1:])]


@pytest.mark.parametrize("validation", [0.0, 0.5])
def test_equal_texts_are_kept_once(tmp_path, corpus, tokenizer, validation):
    again = tmp_path / "again.jsonl"
    again.write_text(corpus.read_text() * 2)
    summary = build_shards([str(corpus), str(again)], tokenizer, tmp_path / "tokens", validation=validation)
    assert sum(split["documents"] for split in summary.splits.values()) == 12
    assert sum(split["duplicates"] for split in summary.splits.values()) == 24
    for name, split in summary.splits.items():
        assert split["duplicates"] == 2 * split["documents"]
        assert TokenStore(tmp_path / "tokens", name).manifest["splits"][name]["totals"] == split


def test_a_side_without_documents(tmp_path, tokenizer):
    (tmp_path / "one.txt").write_text("only one")
    with pytest.raises(
        ValueError, match=r"a validation share of 0.3 leaves none of 1 document for (train|validation): give more"
    ):
        build_shards([str(tmp_path / "one.txt")], tokenizer, tmp_path / "tokens", validation=0.3)
    assert [p.name for p in tmp_path.iterdir()] == ["one.txt"]
    for name in ("two.txt", "three.txt"):
        (tmp_path / name).write_text("only one")
    message = (
        r"of 1 different document \(others are equal to them: 2\) for (train|validation): give more different documents"
    )
    with pytest.raises(ValueError, match=message):
        build_shards([str(tmp_path)], tokenizer, tmp_path / "tokens", validation=0.3)


def test_the_same_again_is_kept(tmp_path, corpus, tokenizer):
    folder = tmp_path / "deep" / "tokens"
    counted = []
    first = build_shards([str(corpus)], tokenizer, folder, validation=0.4, progress=counted.append)
    assert len(counted) == 12 and sum(counted) == sum(s["tokens"] for s in first.splits.values())
    before = contents(folder)
    tokenizer("x", truncation=True, max_length=3)  # the tokenizer remembers this, but it changes nothing here
    moved = tmp_path / "moved" / "corpus.jsonl"
    moved.parent.mkdir()
    corpus.rename(moved)
    second = build_shards([str(moved)], tokenizer, folder, validation=0.4, progress=pytest.fail)
    assert contents(folder) == before
    assert (first.reused, second.reused, first.splits) == (False, True, second.splits)


def test_other_settings_sources_and_tokenizers_are_refused(tmp_path, corpus, tokenizer):
    folder = tmp_path / "tokens"
    build_shards([str(corpus)], tokenizer, folder)
    before = contents(folder)
    other = words("Document", "vu", "1")
    (tmp_path / "more.txt").write_text("more")
    for sources, used, settings, expected in [
        ([corpus], tokenizer, {"seed": 1}, r"differ in seed \(0 there, 1 here\): choose another folder or delete it"),
        ([corpus], tokenizer, {"validation": 0.1}, r"differ in validation \(0.0 there, 0.1 here\)"),
        ([corpus], tokenizer, {"text_field": "title"}, r"differ in text_field \('text' there, 'title' here\)"),
        ([corpus], tokenizer, {"shard_tokens": 9}, r"differ in shard_tokens \(50000000 there, 9 here\)"),
        ([corpus], other, {}, r"differ in tokenizer \('.*' there, '.*' here\), vocab_size \(256 there, 3 here\)"),
        ([corpus, tmp_path / "more.txt"], tokenizer, {}, r"differ in sources \(more.txt\)"),
        ([corpus, corpus], tokenizer, {}, r"differ in sources \(their order or number\)"),
    ]:
        with pytest.raises(ValueError, match=expected):
            build_shards([str(s) for s in sources], used, folder, **settings)
    corpus.write_text(corpus.read_text().replace("vu", "VU"))
    with pytest.raises(ValueError, match=r"differ in sources \(corpus.jsonl\)"):
        build_shards([str(corpus)], tokenizer, folder)
    assert contents(folder) == before


def test_sources_and_hub_datasets_are_described(tmp_path, corpus, tokenizer):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "test.jsonl").write_text('{"text": "from the hub"}\n')
    source = f"hub:{tmp_path / 'hub'}@test"
    build_shards([str(corpus), source], tokenizer, tmp_path / "tokens")
    file, hub = TokenStore(tmp_path / "tokens").manifest["sources"]
    assert (file["file"], file["bytes"]) == (str(corpus), corpus.stat().st_size)
    assert len(file["sha256"]) == 64
    assert hub == {"hub": str(tmp_path / "hub"), "configuration": None, "split": "test"}
    assert build_shards([str(corpus), source], tokenizer, tmp_path / "tokens").reused
    with pytest.raises(ValueError, match="differ in sources"):
        build_shards([str(corpus), f"hub:{tmp_path / 'hub'}"], tokenizer, tmp_path / "tokens")


@pytest.mark.parametrize(("size", "dtype"), [(1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
def test_ids_fit_their_type(tmp_path, size, dtype):
    (tmp_path / "a.txt").write_text(f"zero filler{size - 2}")
    build_shards([str(tmp_path / "a.txt")], words("zero", size=size), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    assert (store.manifest["dtype"], store.vocab_size) == (dtype, size)
    assert store.read(0, 0, 2).tolist() == [0, size - 1]


def test_tokenizers_without_a_backend(tmp_path):
    (tmp_path / "a.txt").write_text("abba")
    build_shards([str(tmp_path / "a.txt")], Letters("ab"), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    assert store.read(0, 0, 4).tolist() == [0, 1, 1, 0]
    check_tokenizer(store, Letters("ab"))
    with pytest.raises(ValueError, match="was tokenised with another tokenizer"):
        check_tokenizer(store, Letters("ba"))


def test_check_tokenizer(store, tokenizer, base_folder):
    check_tokenizer(store, AutoTokenizer.from_pretrained(base_folder))
    with pytest.raises(ValueError, match=f"{store.folder} was tokenised with another tokenizer"):
        check_tokenizer(store, words("a"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"validation": 1.0}, "validation=1.0 must be a share"),
        ({"validation": float("nan")}, "validation=nan must be a share"),
        ({"shard_tokens": 0}, "shard_tokens=0 must be at least 1"),
        ({"text_field": "body"}, "corpus.jsonl:1 has no field 'body'"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path, corpus, tokenizer, settings, expected):
    with pytest.raises(ValueError, match=expected):
        build_shards([str(corpus)], tokenizer, tmp_path / "tokens", **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_document_without_tokens(tmp_path):
    (tmp_path / "a.txt").write_text("aha")
    (tmp_path / "b.txt").write_text("oh")
    only_a = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(ValueError, match=r"b\.txt has no tokens"):
        build_shards([str(tmp_path)], only_a, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_folders_of_something_else_are_left_alone(tmp_path, corpus, tokenizer):
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "thesis.txt").write_text("dear")
    for occupied in (folder, folder / "thesis.txt"):
        with pytest.raises(ValueError, match=f"{occupied} has no manifest.json: .* or a new one"):
            build_shards([str(corpus)], tokenizer, occupied)
    (folder / "thesis.txt").unlink()
    assert not build_shards([str(corpus)], tokenizer, folder).reused  # an empty folder counts as none


def test_stopping_leaves_nothing_behind(tmp_path, corpus, tokenizer):
    def stop(tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shards([str(corpus)], tokenizer, tmp_path / "tokens", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, corpus, tokenizer):
    def full(tokens):
        raise OSError(28, "No space left on device")

    with pytest.raises(
        OSError, match=r"tokens can't be written, because there is no space left on its disk: free some"
    ):
        build_shards([str(corpus)], tokenizer, tmp_path / "tokens", progress=full)
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


def edit_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "manifest.json").unlink(), "tokens has no manifest.json"),
        (lambda f: cut_short(f / "manifest.json"), "manifest.json is damaged: delete"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "manifest.json is damaged"),
        (lambda f: edit_manifest(f, vocab_size=9), "manifest.json is damaged"),
        (lambda f: edit_manifest(f, format_version=2), "format_version=2, this package reads 1: upgrade"),
        (lambda f: (f / "train" / "tokens-00000.bin").unlink(), "tokens-00000.bin is missing: delete"),
        (lambda f: cut_short(f / "train" / "tokens-00000.bin"), r"tokens-00000.bin has \d+ bytes, not \d+: delete"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, corpus, tokenizer, damage, expected):
    folder = tmp_path / "tokens"
    build_shards([str(corpus)], tokenizer, folder)
    damage(folder)
    with pytest.raises(ValueError, match=expected):
        TokenStore(folder)
    with pytest.raises(ValueError, match=expected):
        build_shards([str(corpus)], tokenizer, folder)


def test_verify_sees_a_flipped_bit(tmp_path, corpus, tokenizer):
    build_shards([str(corpus)], tokenizer, tmp_path / "tokens")
    path = tmp_path / "tokens" / "train" / "tokens-00000.bin"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokens-00000\.bin is damaged: its checksum does not match"):
        TokenStore(tmp_path / "tokens").verify()


def test_unknown_folders_and_splits(tmp_path, store):
    with pytest.raises(ValueError, match="has no split 'validation': it holds train"):
        TokenStore(store.folder, "validation")
    with pytest.raises(ValueError, match=r"nowhere has no manifest\.json"):
        TokenStore(tmp_path / "nowhere")


@pytest.fixture
def tokenize_command(run):
    if "tokenize" not in {c.name for c in app.registered_commands}:
        app.command("tokenize")(command.command)
    return lambda *arguments: run("tokenize", *arguments)


def test_command(tokenize_command, tmp_path, corpus, base_folder):
    options = ["--tokenizer", base_folder, "-o", tmp_path / "tokens", "--validation", "0.4"]
    code, out, err = tokenize_command(corpus, *options, "--json")
    report = json.loads(out)
    assert (code, err, report["reused"]) == (0, "", False)
    for name, split in report["splits"].items():
        store = TokenStore(tmp_path / "tokens", name)
        assert (split["documents"], split["tokens"]) == (len(store), store.lengths.sum())
    code, out, _ = tokenize_command(corpus, *options)
    assert code == 0
    assert f"{tmp_path / 'tokens'} holds these tokens already\ntrain: " in out


def test_command_with_bad_input(tokenize_command, tmp_path, corpus, base_folder):
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    options = ["--tokenizer", base_folder, "-o", tmp_path / "tokens"]
    for arguments, expected in [
        ([tmp_path / "missing.txt", *options], "does not exist"),
        ([tmp_path / "bad.parquet", *options], "bad.parquet can't be read"),
        ([corpus, *options, "--validation", "2"], "--validation 2.0"),
        ([corpus, "--tokenizer", tmp_path / "none", "-o", tmp_path / "tokens"], "does not exist or is not a folder"),
    ]:
        code, out, err = tokenize_command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert expected in err
        assert not (tmp_path / "tokens").exists()
