"""The cache of parts on disk: bounded, checked, and shared."""

import errno
import os
from pathlib import Path

import pytest

from sharedllm.corpus.cache import DiskCache, digest
from sharedllm.utils.errors import UserError

PARTS = [bytes([i]) * 100 for i in range(20)]
SUMS = [digest(part) for part in PARTS]


class Origin:
    def __init__(self):
        self.asked: list[int] = []

    def get(self, cache: DiskCache, which: list[int]) -> list[bytes]:
        def fetch(lacking: list[int]) -> list[bytes]:
            self.asked += [which[i] for i in lacking]
            return [PARTS[which[i]] for i in lacking]

        return cache.get([SUMS[i] for i in which], fetch)


def test_a_part_is_fetched_once(tmp_path):
    origin, cache = Origin(), DiskCache(tmp_path / "c", 10_000)
    assert origin.get(cache, [0, 1]) == PARTS[:2]
    assert origin.get(DiskCache(tmp_path / "c", 10_000), [1, 2, 0]) == [PARTS[1], PARTS[2], PARTS[0]]
    assert origin.asked == [0, 1, 2]


def test_never_more_than_the_limit(tmp_path):
    origin, cache = Origin(), DiskCache(tmp_path / "c", 1000)
    for i in range(20):
        assert origin.get(cache, [i]) == [PARTS[i]]
        assert sum(p.stat().st_size for p in (tmp_path / "c").iterdir()) <= 1000
    origin.asked.clear()
    origin.get(cache, [19, 18, 0])
    assert origin.asked == [0], "the last ones are kept, the first is gone"


def test_a_part_larger_than_the_cache_is_not_kept(tmp_path):
    origin, cache = Origin(), DiskCache(tmp_path / "c", 50)
    assert origin.get(cache, [0]) == [PARTS[0]]
    assert not list((tmp_path / "c").iterdir())


def test_damage_on_the_disk_is_fetched_again(tmp_path):
    origin, cache = Origin(), DiskCache(tmp_path / "c", 10_000)
    origin.get(cache, [3])
    (tmp_path / "c" / SUMS[3]).write_bytes(b"x" * 100)
    assert origin.get(cache, [3]) == [PARTS[3]] and origin.asked == [3, 3]


def test_a_full_disk_is_named_with_the_fix(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "c", 10_000)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"No space left on device; free space, set SHAREDLLM_CACHE_MB"):
        Origin().get(cache, [0])


def test_what_another_process_drops_while_it_is_opened_is_no_error(tmp_path, monkeypatch):
    Origin().get(DiskCache(tmp_path / "c", 10_000), [0, 1])
    real = os.scandir

    def listed(folder):
        entries = list(real(folder))
        Path(entries[0].path).unlink()
        return iter(entries)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", listed)
        cache = DiskCache(tmp_path / "c", 10_000)
    assert sorted(Origin().get(cache, [0, 1])) == sorted(PARTS[:2])


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAREDLLM_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("SHAREDLLM_CACHE_MB", "7")
    cache = DiskCache.of_user()
    assert (cache.folder, cache.limit) == (tmp_path / "here", 7_000_000)
    monkeypatch.setenv("SHAREDLLM_CACHE_MB", "none")
    with pytest.raises(UserError, match="SHAREDLLM_CACHE_MB='none'"):
        DiskCache.of_user()
