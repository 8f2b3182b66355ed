"""Documents from every kind of source, in order, and one line for everything that can't be read."""

import gzip
import json
import sys

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from sharedllm.data.sources import documents, parse_hub, resolve

RECORDS = [{"text": "first", "title": "One"}, {"text": "zwei\r\n"}, {"text": "three \U0001f43a", "title": " "}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def pack(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return zstandard.compress(data) if name.endswith(".zst") else data


def write_parquet(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)


def read(*sources, **options) -> list[tuple[str, str]]:
    return [(d.text, d.name) for d in documents([str(s) for s in sources], **options)]


@pytest.mark.parametrize("name", ["a.txt", "b.md", "C.TXT"])
def test_a_text_file_is_one_document(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"# Caf\xc3\xa9\r\n")
    (document,) = documents([str(path)])
    assert (document.text, document.name, document.source) == ("# Café\r\n", str(path), str(path))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "odd [x]*#.parquet", "[y].jsonl"]
)
def test_each_record_is_a_document(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".parquet"):
        write_parquet(path, text=[r["text"] for r in RECORDS], title=[r.get("title") for r in RECORDS])
    else:
        path.write_bytes(pack(name, LINES))
    assert read(path) == [("first", "One"), ("zwei\r\n", f"{path}:2"), ("three \U0001f43a", f"{path}:3")]
    assert {d.source for d in documents([str(path)])} == {str(path)}


def test_json_lines_count_blank_lines_and_need_no_last_newline(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "a"}\n\n{"body": "b"}')
    assert read(path, text_field="body") == [("a", f"{path}:1"), ("b", f"{path}:3")]


def test_frames_of_any_size_are_read_to_the_end(tmp_path):
    texts = [f"text {i} " * 20_000 for i in range(6)]
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(zstandard.compress(json.dumps({"text": t}).encode() + b"\n") for t in texts))
    assert [text for text, _ in read(path)] == texts


def test_folders_globs_and_files_keep_their_order(tmp_path):
    for name in ("b/2.txt", "b/10.md", "a.txt", ".hidden.txt", ".git/x.txt", "b/notes.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "b" / "c.jsonl").write_text('{"text": "c"}\n')
    assert [text for text, _ in read(tmp_path)] == ["a.txt", "b/10.md", "b/2.txt", "c"]
    assert [text for text, _ in read(tmp_path / "b" / "*.txt", tmp_path / "a.txt")] == ["b/2.txt", "a.txt"]
    assert resolve([str(tmp_path / "a.txt"), "hub:x/y"]) == [str(tmp_path / "a.txt"), "hub:x/y"]


def test_hub_ids():
    assert parse_hub("hub:owner/name") == ("owner/name", None, "train")
    assert parse_hub("hub:owner/name:en@test") == ("owner/name", "en", "test")
    assert parse_hub("hub:name@validation") == ("name", None, "validation")


def test_hub_datasets_are_streamed(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "title": "A"}\n{"text": "b", "title": null}\n')
    (tmp_path / "validation.jsonl").write_text('{"text": "c"}\n')
    source = f"hub:{tmp_path}"
    assert read(source) == [("a", "A"), ("b", f"{source}:2")]
    assert read(f"{source}:default@validation") == [("c", f"{source}:default@validation:1")]
    with pytest.raises(ValueError, match="can't be read: Bad split: test"):
        read(f"{source}@test")


def test_a_hub_dataset_out_of_reach(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"^hub:no-one/nothing can't be read: Couldn't reach"):
        read("hub:no-one/nothing")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b" \n", "a.txt is empty"),
        ("a.md", b"caf\xe9", "a.md is not UTF-8: byte 3 is 0xe9"),
        ("a.pdf", b"x", "a.pdf is not of a supported kind: convert it to one of .txt .md .py .jsonl"),
        ("a.jsonl", b"", "a.jsonl is empty: it holds no record"),
        ("a.jsonl", b"\n\n", "a.jsonl is empty: it holds no record"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "a.jsonl:2 is not JSON: Expecting ',' delimiter"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "a.jsonl:1 is not JSON: 'text' is there twice; fix the line"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1 is not JSON"),
        ("a.jsonl", b'\n{"text": "\xff"}\n', "a.jsonl:2 is not UTF-8: byte 10 of the line is 0xff"),
        ("a.jsonl", b'"text"\n', "a.jsonl:1 is a str, not a record"),
        (
            "a.jsonl",
            b'{"body": "a", "id": 1}\n',
            "a.jsonl:1 has no field 'text': name the field that holds the text, one of body",
        ),
        ("a.jsonl", b"{}\n", "a.jsonl:1 has no field 'text': .* of none"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1 has a int in 'text', not text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ""}\n', "a.jsonl:2 is empty"),
        ("a.jsonl", b'{"text": " \\n"}\n', "a.jsonl:1 is empty"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', "a.jsonl:1 is not valid Unicode: surrogates not allowed at character 1"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "a.jsonl.gz is damaged or cut short after line"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz is damaged or cut short after line 0"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-5], "a.jsonl.zst is damaged or cut short .*frame is incomplete"),
        ("a.jsonl.zst", zstandard.compress(LINES) + b"rest", "a.jsonl.zst is damaged or cut short after line"),
        ("a.jsonl.zst", b"no zstandard", "a.jsonl.zst is damaged or cut short after line 0"),
        ("a.jsonl.zst", zstandard.compress(b""), "a.jsonl.zst is empty"),
        ("a.parquet", b"PAR1 no parquet", "a.parquet can't be read"),
    ],
)
def test_files_that_are_refused(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=expected) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_records_of_parquet_that_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, text=["a", None])
    with pytest.raises(ValueError, match=r"a.parquet:2 has a NoneType in 'text'"):
        read(path)
    with pytest.raises(ValueError, match=r"a.parquet:1 has no field 'body': .* of text"):
        read(path, text_field="body")
    write_parquet(path, text=pyarrow.array([], pyarrow.string()))
    with pytest.raises(ValueError, match=r"a.parquet is empty: it holds no record"):
        read(path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("missing.txt", "missing.txt does not exist"),
        ("*.nothing", "matches no file"),
        ("empty", "empty holds no supported file: add some with a suffix of .txt .md .py .jsonl"),
        ("-", "- does not exist"),
        ("hub:", "hub: names no dataset"),
        ("hub:a@b@c", "hub:a@b@c names no dataset"),
    ],
)
def test_sources_that_are_refused_before_anything_is_read(tmp_path, monkeypatch, source, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.rst").write_text("x")
    (tmp_path / "good.txt").write_text("good")
    with pytest.raises(ValueError, match=expected):
        next(documents(["good.txt", source]))


@pytest.mark.parametrize("sources", [[], "book.txt"])
def test_sources_are_a_list(sources):
    with pytest.raises(ValueError, match="must be a list of at least one"):
        resolve(sources)


@pytest.mark.parametrize(
    ("module", "name", "extra"), [("zstandard", "a.jsonl.zst", "documents"), ("datasets", "a.parquet", "train")]
)
def test_libraries_that_are_not_installed(tmp_path, monkeypatch, module, name, extra):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"needs the {module} library: pip install 'sharedllm\[{extra}\]'"):
        read(tmp_path / name)
