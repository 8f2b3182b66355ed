"""How sources are cut into shards: by the source alone, and by content."""

import json

import pytest
from corpora import documents, run

from sharedllm.corpus import items
from sharedllm.corpus.engines import OneProcess
from sharedllm.corpus.records import Records
from sharedllm.corpus.sources import Shard, kind_of, plan
from sharedllm.utils.errors import UserError


def written(tmp_path, sizes):
    folder = tmp_path / "docs"
    folder.mkdir(exist_ok=True)
    for number, size in enumerate(sizes):
        (folder / f"{number}.txt").write_text(f"{number} " + "a" * (size - 2))
    return folder


def texts(shard: Shard):
    return items.texts(shard, Records())


def names(shards: list[Shard]) -> list[list[str]]:
    return [[name.rpartition("/")[2] for name, _ in texts(shard)] for shard in shards]


def test_small_documents_share_a_shard_and_large_ones_are_alone(tmp_path):
    shards, unreadable = plan([str(written(tmp_path, [40, 40, 40, 500, 40]))], 100)
    assert names(shards) == [["0.txt", "1.txt"], ["2.txt"], ["3.txt"], ["4.txt"]] and not unreadable
    assert [shard.nbytes for shard in shards] == [80, 40, 500, 40]


def test_a_shard_is_named_by_its_content(tmp_path):
    folder = written(tmp_path, [40, 40, 40, 40])
    before = [shard.id for shard in plan([str(folder)], 80)[0]]
    assert before == [shard.id for shard in plan([str(folder)], 80)[0]] and len(set(before)) == 2
    (folder / "3.txt").write_text("b" * 40)  # of the same size
    after = [shard.id for shard in plan([str(folder)], 80)[0]]
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.parametrize("content", ["Another text.", ""])
def test_a_file_that_changes_after_it_was_listed_is_not_committed(tmp_path, corpus_model, content):
    """A shard is named by the old content, which may be back when it is read again."""
    folder = documents(tmp_path / "docs", 2)
    before = (folder / "1.txt").read_text()

    class Late(OneProcess):
        def __call__(self, *given):
            (folder / "1.txt").write_text(content)
            return super().__call__(*given)

    with pytest.raises(UserError, match=r"1\.txt has changed since it was listed: run it again\. 1 of 2 shards are"):
        run(corpus_model, folder, tmp_path / "c", shard_bytes=1, engine=Late())
    (folder / "1.txt").write_text(before)
    again = run(corpus_model, folder, tmp_path / "c", shard_bytes=1)
    assert (again.shards_known, again.shards_read, again.unreadable) == (1, 1, [])


def test_records_of_lines_compressed_or_not(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    lines = [json.dumps({"title": f"t{i}", "text": f"text {i}"}) for i in range(5)]
    content = "\n".join([*lines[:2], "", *lines[2:]])
    (tmp_path / "a.jsonl").write_text(content)
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(content.encode()))
    for file in ("a.jsonl", "b.jsonl.zst"):
        shards, _ = plan([str(tmp_path / file)], 2 * len(lines[0]))
        assert names(shards) == [[f"{file}:1", f"{file}:2"], [f"{file}:4", f"{file}:5"], [f"{file}:6"]]
        opened = [opens() for shard in shards for _, opens in texts(shard)]
        assert ["".join(text.pieces()) for text in opened] == [f"text {i}" for i in range(5)]
        assert [text.origin.title for text in opened] == [f"t{i}" for i in range(5)]


def test_rows_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"text": f"text {i}", "n": i} for i in range(600)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    shards, _ = plan([str(tmp_path / "a.parquet")], 1000)
    assert 1 < len(shards) < 100
    assert ["".join(opens().pieces()) for shard in shards for _, opens in texts(shard)] == [r["text"] for r in rows]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"text": "a"}', "a"),
        ('"b"', "b"),
        ('{"name": "x", "size": {"w": 1}}', "name: x; size.w: 1\n"),
        ('{"text": "\\ud800 half"}', "? half"),
    ],
)
def test_what_a_record_says(tmp_path, line, text):
    (tmp_path / "a.jsonl").write_text(line)
    ((_, opens),) = texts(plan([str(tmp_path / "a.jsonl")], 10)[0][0])
    assert "".join(opens().pieces()) == text


@pytest.mark.parametrize("line", [b"{", b'{"text": " "}', b'"\xff"', b"null"])
def test_a_bad_record_is_an_error_of_its_own(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(b'"good"\n' + line)
    (good, bad) = texts(plan([str(tmp_path / "a.jsonl")], 100)[0][0])
    assert "".join(good[1]().pieces()) == "good"
    with pytest.raises(UserError, match=r"a\.jsonl:2"):
        bad[1]()


def test_sources_that_are_wrong(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        plan([str(tmp_path / "none")], 100)
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(UserError, match="not Parquet"):
        plan([str(tmp_path / "a.parquet")], 100)
    with pytest.raises(UserError, match="holds no file"):
        plan([f"file://{tmp_path}/none"], 100)


def test_a_folder_by_its_uri(tmp_path):
    folder = written(tmp_path, [40, 40])
    shards, _ = plan([f"file://{folder}"], 100)
    assert names(shards) == [["0.txt", "1.txt"]]
    ((_, first), _) = texts(shards[0])
    assert "".join(first().pieces()).startswith("0 aaa")


def test_kinds():
    said = {
        "a.txt": "file",
        "a.JSONL": "lines",
        "a.jsonl.zst": "lines",
        "b.parquet": "table",
        "c": "file",
        "d.gz": "file",
    }
    assert {name: kind_of(name) for name in said} == said
