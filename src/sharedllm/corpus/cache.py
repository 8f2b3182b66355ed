"""Parts of objects elsewhere, kept on this machine's disk up to a size. (fsspec has caches on disk, but none with a limit.)

A part's file is named by its SHA-256, so that what was damaged on the way or on the disk is noticed, and processes can share the
folder.
"""

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..utils.errors import UserError

FOLDER, SIZE = "SHAREDLLM_CACHE", "SHAREDLLM_CACHE_MB"
DEFAULT_MB = 4096


def digest(content: bytes) -> str:
    """32 hex digits."""
    return hashlib.sha256(content).hexdigest()[:32]


class DiskCache:
    """A folder of parts. The least recently used ones go when the limit is reached."""

    def __init__(self, folder: Path, limit: int):
        """
        Args:
            limit: most bytes of all parts.

        Raises:
            UserError: the folder can't be made.
        """
        self.folder, self.limit = folder, limit
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = sum(size for _, size, _ in self._entries())
        except OSError as error:
            raise self._failed(error) from None

    @classmethod
    def of_user(cls) -> "DiskCache":
        """The user's, as the environment says.

        Raises:
            UserError: its size is no number.
        """
        size = os.environ.get(SIZE, str(DEFAULT_MB))
        if not size.isdigit() or not int(size):
            raise UserError(f"{SIZE}={size!r} is no number of megabytes: give at least 1.")
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(Path(os.environ.get(FOLDER) or base / "sharedllm" / "corpus"), int(size) * 10**6)

    def get(self, sums: Sequence[str], fetch: Callable[[list[int]], list[bytes]]) -> list[bytes]:
        """The parts with these digests.

        Args:
            fetch: the parts of some indices into `sums`, compared, where they come from.

        Raises:
            UserError: the disk is full.
        """
        found = {i: content for i, s in enumerate(sums) if (content := self._kept(s)) is not None}
        lacking = [i for i in range(len(sums)) if i not in found]
        for i, content in zip(lacking, fetch(lacking) if lacking else [], strict=True):
            self._keep(sums[i], content)
            found[i] = content
        return [found[i] for i in range(len(sums))]

    def _kept(self, name: str) -> bytes | None:
        path = self.folder / name
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        if digest(content) == name:
            return content
        self._remove(path, len(content))
        return None

    def _keep(self, name: str, content: bytes) -> None:
        if len(content) > self.limit:
            return
        if self._held + len(content) > self.limit:
            self._shrink(self.limit - len(content))
        temporary = self.folder / f"{name}.tmp{secrets.token_hex(4)}"
        try:
            temporary.write_bytes(content)
            temporary.replace(self.folder / name)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            temporary.unlink(missing_ok=True)
        self._held += len(content)

    def _shrink(self, most: int) -> None:
        """Drop parts until a fifth of the room is free, so that it is not done for each."""
        entries = self._entries()
        self._held = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if self._held <= min(most, self.limit * 4 // 5):
                break
            self._remove(path, size)

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Time, size and path of each part, without those that another process drops meanwhile."""
        entries = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                entries.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return entries

    def _remove(self, path: Path, size: int) -> None:
        path.unlink(missing_ok=True)
        self._held -= size

    def _failed(self, error: OSError) -> UserError:
        return UserError(
            f"the cache {self.folder} can't be written: {error.strerror or error}; free space, set {SIZE} to fewer megabytes "
            f"than {self.limit // 10**6:,}, or {FOLDER} to another folder, such as {tempfile.gettempdir()}/parts."
        )
