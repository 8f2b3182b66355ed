"""The memories of a server by name: those opened at its start, and what other processes make, change and remove."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..memory.interface import Memory
from ..store.opening import Label, is_memory, look, open_memory
from ..utils.errors import UserError, first_of, shown
from ..utils.files import is_uri
from .errors import ServingError
from .opened import Opened


class Memories:
    """Memories by the names of their folders or files. Only the worker's thread changes their documents; other threads may read
    them, and look at what other processes have changed."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        opens: Callable[[str], Memory] = open_memory,
        *,
        folder: Path | None = None,
        left_out: Callable[[str], None] = lambda line: None,
        closed: bool = False,
    ):
        """
        Args:
            opens: opens a path the first time.
            folder: all its memories are served too, and new ones are made in it. left_out: called with a line for each of
                them that can't be served.
            closed: let each memory go once it was looked at.

        Raises:
            UserError: as `opens`, for one of `paths`; two memories of one name, or one that does not hold every token.
        """
        self.folder, self._opens, self._left_out, self._closed = folder, opens, left_out, closed
        self._opened: dict[str, Opened] = {}
        # The memory that is being changed here: questions see it as it was before.
        self._changing: str | None = None
        # Held while the mapping is replaced; other threads may go through the old one.
        self._replacing = threading.Lock()
        # Held while the folder is looked through, so that each new memory is opened once.
        self._scanning = threading.Lock()
        # What in the folder can't be served, as it was when its line was said; it is tried again once it has changed.
        self._refused: dict[Path, Label | str] = {}
        for path in (path if is_uri(path) else Path(path) for path in paths):
            self._open(path)
        self.scan()

    def _open(self, path: Path | str) -> None:
        name = _name(path)
        if name in self._opened:
            raise UserError(f"{path} and {self[name].path} are both {name!r}: rename one.")
        label, memory = look(path), self._opens(str(path))
        if not memory.complete:
            raise UserError(f"{path} does not hold every token: read its texts with `sharedllm read --keep-all`.")
        self.put(name, Opened(path, label, memory))
        if self._closed:
            self.close(name)

    def put(self, name: str, opened: Opened) -> None:
        """Serve a memory under a name, in place of what was served there."""
        with self._replacing:
            self._opened = self._opened | {name: opened}

    def drop(self, name: str) -> None:
        """Serve no more what was served under a name."""
        with self._replacing:
            self._opened = {other: opened for other, opened in self._opened.items() if other != name}

    def removable(self, name: str) -> bool:
        """Whether it is a memory in the server's folder, which clients make and may remove."""
        opened = self[name]
        if opened.label.kind != "memory" or not isinstance(opened.path, Path):
            return False
        return opened.path.parent == self.folder and not opened.path.is_symlink()

    def scan(self) -> None:
        """Serve what is in the folder: what other processes have made there, and no more what they have removed."""
        if self.folder is None:
            return
        with self._scanning:
            try:
                found = sorted(self.folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):  # another process has removed it
                return
            with self._replacing:
                there = {name: opened for name, opened in self._opened.items() if not self._gone(opened)}
                if len(there) < len(self._opened):
                    self._opened = there
                    self._refused.clear()  # a name may be free again
            # This is done before every request, so what is served already is known by its name, without a look at the disk.
            paths = [opened.path for opened in self._opened.values()]
            inside = {path.name for path in paths if isinstance(path, Path) and path.parent == self.folder}
            for path in found:
                if path.name not in inside:
                    self._offer(path)

    def _serves(self, path: Path) -> bool:
        return path.resolve() in {Path(opened.path).resolve() for opened in self._opened.values()}

    def _offer(self, path: Path) -> None:
        """Serve a memory of the folder, or say once why it can't be. What is none, or served, is passed over."""
        state: Label | str | None = None
        try:
            if not is_memory(path) or self._serves(path):
                return
            state = look(path)
            if self._refused.get(path) != state:
                self._open(path)
        except UserError as error:
            state = state or str(error)
            if self._refused.get(path) != state:
                self._refused[path] = state
                self._left_out(f"{path} is not served: {error}")

    def _gone(self, opened: Opened) -> bool:
        """Whether another process has removed a memory of the folder."""
        return isinstance(opened.path, Path) and opened.path.parent == self.folder and not opened.path.exists()

    def refresh(self) -> None:
        """See what other processes have changed in the folder and in any memory."""
        self.scan()
        for name, held in self._opened.items():
            with suppress(UserError):  # it is listed as it was; who asks it is told
                latest = self._latest(name)
                if latest is not held:
                    self.put(name, latest)
                if held.closed:
                    latest.close()

    def close(self, name: str) -> None:
        """Let a memory go that is not asked; it is opened again when it is."""
        if name in self._opened:
            self._opened[name].close()

    @property
    def names(self) -> list[str]:
        return [name for name, opened in self._opened.items() if not self._gone(opened)]

    def __getitem__(self, name: str) -> Opened:
        """
        Raises:
            ServingError: no memory of that name.
        """
        if name not in self.names:
            fix = f"name one of {first_of(self.names, like=name)}" if self.names else "none is; leave it out"
            raise ServingError(404, f"memory={shown(name)} is not served: {fix}.", "memory")
        return self._opened[name]

    def meant(self, name: str | None) -> str | None:
        """The memory that a request reads: the named one, or if none is named the only one, unless it is empty; "" means none.

        Raises:
            ServingError: no memory of that name.
        """
        if name:
            _ = self[name]
            return name
        there = self.names
        alone = name is None and len(there) == 1 and self[there[0]].tokens > 0
        return there[0] if alone else None

    def current(self, name: str) -> Memory:
        """The memory of a name, reopened if another process has changed it.

        Raises:
            ServingError: no memory of that name, or it can no longer be asked.
        """
        _ = self[name]
        try:
            latest = self._latest(name)
            memory = latest.memory
        except UserError as error:
            raise ServingError(409, f"memory={name!r} was changed by another process: {error}", "memory") from None
        if not latest.complete:
            message = f"memory={name!r} does not hold every token any more: read its texts again with `sharedllm read --keep-all`."
            raise ServingError(409, message, "memory")
        if self._opened.get(name) is not latest:
            self.put(name, latest)
        return memory

    def _latest(self, name: str) -> Opened:
        """A memory as it is on disk."""
        held = self._opened[name]
        label = held.label if name == self._changing else look(held.path)
        return held if label == held.label else held.again(label)

    def listed(self) -> list[dict[str, Any]]:
        """Of each memory its name, size and documents, what of them is lost, and whether it may be removed."""
        return [self.described(name) for name in self.names]

    def described(self, name: str) -> dict[str, Any]:
        opened = self[name]
        size = {"tokens": opened.tokens, "bytes": opened.nbytes}
        damaged = [vars(lost) for lost in opened.damaged]
        told = {"documents": opened.contents, "damaged": damaged, "removable": self.removable(name)}
        return {"id": name, "object": "memory", **size, **told}

    @contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """While the documents of a memory are changed here: questions see it as it was before, and then as it is on disk, after an
        error, too, because committed changes count."""
        old, self._changing = self[name], name
        try:
            yield
        finally:
            self._changing = None
            self.put(name, old.again(look(old.path)))


def _name(path: Path | str) -> str:
    return Path(path).resolve().name.removesuffix(".memory")
