"""How much of a file of records is read: each part once by each reader, whatever the number of shards."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest

from sharedllm.corpus import items
from sharedllm.corpus.objects import Place
from sharedllm.corpus.records import Records
from sharedllm.corpus.sources import Shard, plan
from sharedllm.utils import compressed
from sharedllm.utils.errors import UserError

COUNT = 2000
LINES = [json.dumps({"text": f"text {i} " + os.urandom(40).hex()}) for i in range(COUNT)]


class Counting:
    """A file whose bytes are counted as they are read."""

    def __init__(self, file, counts: list[int]):
        self._file, self._counts = file, counts

    def read(self, *size):
        content = self._file.read(*size)
        self._counts.append(len(content))
        return content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name: str):
        return getattr(self._file, name)


@pytest.fixture
def counts(monkeypatch) -> list[int]:
    """The sizes of all that is read of files of records."""
    found: list[int] = []
    opened, part = Place.opened, Place.part

    def counted(self, *given) -> bytes:
        content = part(self, *given)
        found.append(len(content))
        return content

    monkeypatch.setattr(Place, "opened", lambda self, path: Counting(opened(self, path), found))
    monkeypatch.setattr(Place, "part", counted)
    return found


def shards_of(file: Path, counts: list[int], shard_bytes: int = 1000) -> list[Shard]:
    shards, unreadable = plan([str(file)], shard_bytes)
    assert len(shards) > 50 and not unreadable
    counts.clear()
    return shards


def texts(shards: list[Shard], readers: int = 1) -> list[str]:
    return [text for each in read(shards, readers) for text in each]


def read(shards: list[Shard], readers: int = 1) -> list[list[str]]:
    """The texts of each shard, which readers take in turns."""
    each = [Records() for _ in range(readers)]
    return [
        ["".join(opens().pieces()) for _, opens in items.texts(shard, each[number % readers])]
        for number, shard in enumerate(shards)
    ]


def zstandard_frames(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    middle = len(content) // 2
    return zstandard.compress(content[:middle]) + zstandard.compress(content[middle:])


PACKED = {"jsonl": bytes, "jsonl.zst": zstandard_frames, "jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("readers", [1, 3])
def test_lines_are_read_once_by_each_reader(tmp_path, counts, kind, readers):
    content = "\r\n".join([*LINES[:7], "", " ", *LINES[7:], ""]).encode()
    file = tmp_path / f"a.{kind}"
    file.write_bytes(PACKED[kind](content))
    shards = shards_of(file, counts)
    assert texts(shards, readers) == [json.loads(line)["text"] for line in LINES]
    # Without random access each reader has to go through the whole file once; with it, all together read the lines alone.
    most = file.stat().st_size * (readers if kind != "jsonl" else 1)
    assert sum(counts) <= most, f"{sum(counts) / most:.1f} times"


def table(file: Path, rows: int = COUNT, groups: int = 100) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = [json.loads(line) for line in LINES[:rows]]
    parquet.write_table(pa.Table.from_pylist(values), file, row_group_size=groups, compression="none")
    return file


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("groups", [3, 100, COUNT])
def test_row_groups_are_read_once_by_each_reader_that_needs_them(tmp_path, counts, readers, groups):
    file = table(tmp_path / "a.parquet", groups=groups)
    shards = shards_of(file, counts)
    assert texts(shards, readers) == [json.loads(line)["text"] for line in LINES]
    # Beside the groups each reader reads the table of contents at the end.
    assert sum(counts) < 1.5 * readers * file.stat().st_size


def test_of_a_far_row_group_only_that_is_read(tmp_path, counts):
    shards = shards_of(table(tmp_path / "a.parquet"), counts)
    whole = read(shards)
    counts.clear()
    records = Records()
    for number in (1, -1, 30, 2):
        assert ["".join(opens().pieces()) for _, opens in items.texts(shards[number], records)] == whole[number]
    assert sum(counts[1:]) < (tmp_path / "a.parquet").stat().st_size / 4, "beside the table of contents"


@pytest.mark.parametrize("kind", PACKED)
def test_any_order_gives_the_same(tmp_path, counts, kind):
    (tmp_path / f"a.{kind}").write_bytes(PACKED[kind]("\n".join(LINES).encode()))
    shards = shards_of(tmp_path / f"a.{kind}", counts)
    assert read(shards[::-1]) == read(shards)[::-1]


def test_a_reader_that_stopped_in_the_middle_goes_on(tmp_path, counts):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(LINES).encode()))
    shards, records = shards_of(tmp_path / "a.jsonl.gz", counts), Records()
    name, _ = next(items.texts(shards[3], records))
    assert next(iter(items.texts(shards[3], records)))[0] == name
    assert next(iter(items.texts(shards[0], records)))[0].endswith("a.jsonl.gz:1")


def test_a_shard_is_named_as_ever(tmp_path, monkeypatch):
    """Corpora of earlier versions are gone on with: places in files are no part of a shard's name."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('"a"\n"b"\n\n"c"')
    (shard,) = plan(["a.jsonl"], 100)[0]
    assert shard.id == "03b607fc9ce6dd69ed5d9a0bfea78b19"
    assert [(span.offset, span.nbytes) for span in shard.spans] == [(0, 7), (9, 3)]


@pytest.mark.parametrize("kind", PACKED)
def test_a_file_that_changed_is_named(tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    file.write_bytes(PACKED[kind](b'"a"\n"b"\n"c"'))
    (shard,) = plan([str(file)], 100)[0]
    file.write_bytes(PACKED[kind](b'"a"\n'))
    with pytest.raises(UserError, match=rf"a\.{kind} has changed since it was listed: run it again"):
        read([shard])
    if kind == "jsonl":
        file.write_bytes(b'"a"\n\n"b"\n"c"')
        with pytest.raises(UserError, match="has changed since it was listed"):
            read([shard])


def test_a_table_that_changed_is_named(tmp_path):
    (shard,) = plan([str(table(tmp_path / "a.parquet", rows=9))], 10_000)[0]
    table(tmp_path / "a.parquet", rows=4)
    with pytest.raises(UserError, match=r"a\.parquet has changed since it was listed"):
        read([shard])


def test_rows_that_are_damaged_are_listed(tmp_path):
    file = table(tmp_path / "a.parquet")
    from pyarrow.parquet import ParquetFile

    group = ParquetFile(file).metadata.row_group(5).column(0)
    raw = bytearray(file.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    raw[start : start + 40] = b"\xff" * 40
    file.write_bytes(raw)
    bad, good, records = [], [], Records()
    for shard in plan([str(file)], 5000)[0]:
        for name, opens in items.texts(shard, records):
            number = int(name.rpartition(":")[2]) - 1
            try:
                assert "".join(opens().pieces()) == json.loads(LINES[number])["text"]
                good.append(number)
            except UserError as error:
                bad.append((number, str(error)))
    assert good == [*range(500), *range(600, COUNT)] and [number for number, _ in bad] == list(range(500, 600))
    assert all("a.parquet is damaged from record 501 to 600" in said for _, said in bad)


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "jsonl"])
def test_a_compressed_file_that_is_cut_short_is_no_shorter_one(tmp_path, kind):
    content = PACKED[kind]("\n".join(LINES).encode())
    (tmp_path / f"a.{kind}").write_bytes(content[:-9])
    with pytest.raises(UserError, match=rf"a\.{kind} is damaged or cut short: "):
        plan([str(tmp_path / f"a.{kind}")], 1000)
    (tmp_path / "b.txt").write_text("b")
    shards, unreadable = plan([str(tmp_path)], 10**9)
    assert [(path.rpartition("/")[2], "cut short" in reason) for path, reason in unreadable] == [(f"a.{kind}", True)]
    assert shards


def test_lines_longer_than_what_is_read_at_once(tmp_path):
    long = ["a" * (2**20 + 3), "b" * 5 * 2**20, "c"]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(f'"{line}"' for line in long).encode(), 1))
    assert texts(plan([str(tmp_path / "a.jsonl.gz")], 100)[0]) == long


def test_a_mark_of_byte_order_is_no_part_of_a_record(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf"a"')
    assert read(plan([str(tmp_path / "a.jsonl")], 100)[0]) == [["a"]]


def test_names_of_compressed_files():
    assert all(map(compressed.is_compressed, ("a.GZ", "a.jsonl.zst", "b.xz"))) and not compressed.is_compressed("zst")
