"""A served memory: opened, or let go until it is asked for."""

from pathlib import Path
from typing import Any

from ..memory.interface import Memory
from ..store.opening import Label, open_memory


class Opened:
    """A memory as it was when last opened.

    path   a URI is a text
    label  the result of `look` before opening, so that a change in between is noticed later
    """

    def __init__(self, path: Path | str, label: Label, memory: Memory):
        self.path, self.label = path, label
        self.complete, self.tokens, self.nbytes = memory.complete, memory.tokens, memory.nbytes
        self._memory: Memory | None = memory
        self._contents: list[dict[str, Any]] = []
        self.damaged = tuple(memory.damaged)
        # Blocks of a folder that need not be verified the next time; of what is not damaged, nothing needs it.
        self._sound: frozenset[str] = getattr(memory, "sound", frozenset())

    @property
    def memory(self) -> Memory:
        """
        Raises:
            UserError: it was let go, and can't be opened any more.
        """
        held = self._memory
        if held is None:
            held = self._memory = self._read(self.label)
        return held

    @property
    def contents(self) -> list[dict[str, Any]]:
        """See `Memory.contents`; known of one that was let go, too."""
        held = self._memory
        return self._contents if held is None else held.contents

    @property
    def closed(self) -> bool:
        return self._memory is None

    def close(self) -> None:
        """Let the memory go; the next who asks for it opens it again."""
        held = self._memory  # another thread may let it go meanwhile
        if held is not None:
            self._contents, self._memory = held.contents, None

    def again(self, label: Label) -> "Opened":
        """Open the same path again, for the same model.

        Args:
            label: see the class.
        """
        return Opened(self.path, label, self._read(label))

    def _read(self, label: Label) -> Memory:
        """Verified is only what may be damaged or has changed, since every byte of it is read."""
        known = self.label.fingerprint, self.label.tokenizer
        fingerprint, tokenizer = (mark or None for mark in known)
        verify = label != self.label or bool(self.damaged)
        return open_memory(self.path, fingerprint=fingerprint, tokenizer=tokenizer, verify=verify, sound=self._sound)
