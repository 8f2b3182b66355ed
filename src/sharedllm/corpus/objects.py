"""Objects under a URI, by the library fsspec: a folder here, or a bucket of S3, GCS and the like."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from ..utils.errors import UserError, is_full, refusal
from ..utils.extras import missing
from ..utils.files import is_uri, put
from ..utils.scratch import scratch, sweep

# A secret may stand in a URI: s3://KEY:SECRET@bucket.
_SECRET = re.compile(r"://[^/@]*@")


class Place:
    """A folder of objects.

    uri    as the user named it, without secrets
    local  whether it is on this machine's disks, where ranges need no cache
    """

    def __init__(self, uri: str | Path):
        """
        Raises:
            UserError: no such kind of URI, or the library for it is not installed.
        """
        self._given = str(uri).rstrip("/")
        self.uri = _SECRET.sub("://", self._given)
        with named(self.uri):
            # Listings that are kept would hide what other machines have put meanwhile.
            options = {"use_listings_cache": False} if is_uri(self._given) else {}
            self._fs, self._root = url_to_fs(self._given, **options)
        protocol = self._fs.protocol
        self.local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self._given,)

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None if there is none of that name."""
        with named(self.uri):
            try:
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put an object, whole or not at all."""
        path = f"{self._root}/{name}"
        with named(self.uri, needed=True):
            if self.local:
                with self._temporary(name) as temporary:
                    temporary.write_bytes(content)
            else:
                self._fs.pipe_file(path, content)

    def put(self, name: str, file: Path) -> None:
        """Put a file's content as an object, whole or not at all."""
        path = f"{self._root}/{name}"
        with named(self.uri, needed=True):
            if self.local:
                with self._temporary(name) as temporary:
                    self._fs.cp_file(str(file), str(temporary))
            else:
                self._fs.put_file(str(file), path)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        """A file that becomes an object here once it is written."""
        root = Path(self._root)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with scratch(root) as folder:
            yield folder / "object"
            put(folder / "object", root / name)

    def sweep(self) -> None:
        """Remove what killed writers of this machine had not finished. An object store shows no such thing."""
        if self.local:
            with named(self.uri):
                sweep(Path(self._root))

    def sizes(self, folder: str) -> dict[str, int]:
        """The names of the objects in a folder, and their bytes."""
        with named(self.uri):
            try:
                self._fs.invalidate_cache()
                found: Any = self._fs.ls(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
        return {info["name"].rpartition("/")[2]: int(info.get("size") or 0) for info in found}

    def names(self, folder: str) -> set[str]:
        """The names of the objects in a folder."""
        return set(self.sizes(folder))

    def remove(self, name: str) -> None:
        with named(self.uri):
            self._fs.rm_file(f"{self._root}/{name}")

    def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes start … end − 1 of an object for each span, requested at once.

        Raises:
            Lost: the object, or one of those bytes, is missing.
        """
        path, starts, ends = f"{self._root}/{name}", [s for s, _ in spans], [e for _, e in spans]
        with named(self.uri):
            try:
                found = self._fs.cat_ranges([path] * len(spans), starts, ends, on_error="raise")
            except FileNotFoundError:
                raise Lost.missing(f"{self.uri}/{name}") from None
            except OSError:
                # Stores refuse a range that begins behind the end.
                size = int(self._fs.size(path) or 0)
                if size >= max(ends):
                    raise
                raise Lost.damaged(f"{self.uri}/{name}", f"bytes {size:,}–{max(ends):,} are missing") from None
        for (start, end), part in zip(spans, found, strict=True):
            if len(part) != end - start:
                raise Lost.damaged(f"{self.uri}/{name}", f"bytes {start + len(part):,}–{end:,} are missing")
        return [bytes(part) for part in found]

    def files(self) -> Iterator[tuple[str, str, int]]:
        """The files that the URI stands for, a file, a glob or a folder with all below: path, what changes with the content,
        and bytes."""
        with named(self.uri):
            if any(c in self._root for c in "*?["):
                found: Any = self._fs.glob(self._root, detail=True)
            else:
                found = self._fs.find(self._root, detail=True)
        for path, info in sorted(found.items()):
            if info.get("type") == "file" and not path.rpartition("/")[2].startswith("."):
                stamp = next((info[n] for n in ("ETag", "etag", "md5Hash", "blob_id") if info.get(n)), None)
                size = int(info.get("size") or 0)
                yield path, str(stamp or (size, str(info.get("LastModified", info.get("mtime", ""))))), size

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file that `files` named."""
        with named(self.uri):
            self._fs.get_file(path, str(target))

    def opened(self, path: str) -> Any:
        """A file that `files` named, for reading bytes."""
        with named(self.uri, needed=True):
            return self._fs.open(path, "rb")

    def part(self, path: str, start: int, end: int) -> bytes:
        """Bytes start … end − 1 of a file that `files` named; fewer if it ends before."""
        with named(self.uri, needed=True):
            return bytes(self._fs.cat_file(path, start=start, end=end))


@contextmanager
def named(uri: str, *, needed: bool = False) -> Iterator[None]:
    """Errors of a store as a user's: the URI, what went wrong, and the fix.

    Args:
        needed: what is used has to be there.

    Raises:
        UserError: anything of the store failed. FileNotFoundError: an object is not there, unless it is needed.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        if not needed:
            raise
        said = " ".join(str(error).split())
        raise UserError(f"{uri} can't be used: it is gone, or its bucket is ({said}); check the address.") from None
    except NotADirectoryError:
        raise UserError(f"{uri} can't be used: it is a file, or lies in one; name a folder.") from None
    except ImportError as error:
        library = str(error)
        raise (
            missing("cloud", "s3fs") if "s3fs" in library else UserError(f"{uri} can't be opened: {error}.")
        ) from None
    except PermissionError as error:
        there = is_uri(uri) and not uri.startswith("file:")
        said = f"no permission ({error}); check the credentials and the bucket's rules" if there else refusal(error)
        raise UserError(f"{uri} can't be used: {said}.") from None
    except Exception as error:
        kind = type(error).__name__
        if kind == "NoCredentialsError":
            said = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or make it public"
        elif isinstance(error, ValueError) and "rotocol" in str(error):
            known = "file, s3, gs, hf"
            said = f"{error}; use one of {known}"
        elif isinstance(error, OSError) and is_full(error):
            said = "the disk is full; free space, then run it again"
        elif isinstance(error, (OSError, TimeoutError)) or type(error).__module__.split(".")[0] in (
            "botocore",
            "aiohttp",
            "fsspec",
            "s3fs",
        ):
            said = f"{' '.join(str(error).split()) or kind}; check the address and the network, then run it again"
        else:
            raise
        raise UserError(f"{uri} can't be used: {said}.") from error


class Lost(UserError):
    """An object is missing, or not what was written. Its name stands in the message with its address. A run makes anew what is
    missing, so what is damaged has to be deleted."""

    @classmethod
    def damaged(cls, name: str, what: str) -> "Lost":
        return cls(f"{name} is damaged: {what}; delete it and run the same `sharedllm read-corpus` again.")

    @classmethod
    def missing(cls, name: str) -> "Lost":
        return cls(f"{name} is missing: run the same `sharedllm read-corpus` again, which makes it anew.")


def check_uri(uri: str) -> None:
    """Refuse a URI of an unknown kind before anything slow is done for it.

    Raises:
        UserError: no such kind of URI.
    """
    scheme = uri.partition("://")[0] if is_uri(uri) else "file"
    if scheme not in fsspec.available_protocols():
        raise UserError(
            f"{_SECRET.sub('://', uri)} is of a kind that can't be read: use file://, s3://, gs:// or hf://."
        )
