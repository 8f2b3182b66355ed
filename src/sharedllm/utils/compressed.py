"""Compressed files, read to the end of their last part; a file that is cut short is an error, not a shorter one."""

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, Any, cast

from .errors import UserError

SUFFIXES = (".zst", ".gz", ".bz2", ".xz")


class BadZstandard(OSError):
    """As `gzip.BadGzipFile`."""


# What reading a damaged file raises; of .bz2 it is a bare OSError.
DAMAGED = (EOFError, gzip.BadGzipFile, BadZstandard, zlib.error, lzma.LZMAError)


def is_compressed(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def decompressed(name: str, file: Any) -> IO[bytes]:
    """The content of an open file, which its name says to be compressed or not. Damage is one of `DAMAGED`, raised while it is read.

    Args:
        file: open for reading bytes.

    Raises:
        UserError: the library for it is not installed.
    """
    suffix = name.lower()[name.rfind(".") :]
    if suffix == ".zst":
        return cast("IO[bytes]", io.BufferedReader(_Zstandard(name, file)))
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers[suffix](file) if suffix in openers else file


class _Zstandard(io.RawIOBase):
    """The decompressed bytes of all frames of a file. The library's own stream ends silently at a truncated frame."""

    def __init__(self, source: str, file: Any):
        try:
            import zstandard
        except ImportError:
            raise UserError(f"{source} needs the zstandard library: pip install 'sharedllm[documents]'.") from None
        self.file, self.error = file, zstandard.ZstdError
        self.new = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
        self.frame, self.unread = None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.unread:
            packed = (self.frame.unused_data if self.frame and self.frame.eof else b"") or self.file.read(1 << 16)
            if not packed:
                if self.frame and not self.frame.eof:
                    raise EOFError("its last frame is incomplete")
                return 0
            if self.frame is None or self.frame.eof:
                self.frame = self.new()
            try:
                self.unread = self.frame.decompress(packed)
            except self.error as error:
                raise BadZstandard(str(error)) from None
        size = min(len(buffer), len(self.unread))
        buffer[:size], self.unread = self.unread[:size], self.unread[size:]
        return size
