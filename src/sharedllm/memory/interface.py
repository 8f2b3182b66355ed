"""The interface of every memory, in RAM (`ContextMemory`) or on disk (`store.MemoryStore`).

Code that asks a memory needs nothing else. `sharedllm.open_memory` opens a file or a folder as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from .context_memory import ContextMemory
from .segment import Segment


@dataclass(frozen=True)
class Damage:
    """Tokens start … end − 1 of a document are lost, and why."""

    document: str
    start: int
    end: int
    reason: str

    def __str__(self) -> str:
        return f"{self.document}: tokens {self.start:,}–{self.end:,} are lost: {self.reason}"


class Memory(Protocol):
    """One or more texts that were read."""

    @property
    def texts(self) -> int:
        """B, the number of texts. The documents of a store are concatenated to one text."""
        ...

    @property
    def tokens(self) -> int:
        """The number of tokens read."""
        ...

    @property
    def kept(self) -> Tensor:
        """(B,) the number of tokens whose keys and values are kept."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every token is kept, so that a question can select."""
        ...

    @property
    def chunk_size(self) -> int:
        """C, tokens per chunk."""
        ...

    @property
    def pairs(self) -> int:
        """P, the number of injected layers."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the model that read it; "" if unknown."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size in bytes, in RAM or on disk."""
        ...

    @property
    def contents(self) -> list[dict[str, Any]]:
        """The documents read, in order: "name" and "tokens" of each, and possibly more."""
        ...

    @property
    def damaged(self) -> Sequence[Damage]:
        """The parts that were lost on disk."""
        ...

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments that a question selects from.

        Raises:
            UserError: the memory does not hold every token.
        """
        ...

    def load(self) -> ContextMemory:
        """Load all kept keys and values into RAM, as `generate(memory=…)` needs them."""
        ...


@runtime_checkable
class Searched(Protocol):
    """A memory that is too large to select from: each question is first given the documents that it needs."""

    def nearest(self, model: Any, question: str, asked: Tensor, own: Tensor) -> Memory:
        """The part of it that a question needs.

        Args:
            model: that read it. question: its text. asked: (1, Q) its tokens, as they follow the prefix. own: (1, Q) bool,
                the question's own tokens.
        """
        ...

    def only(self, name: str) -> Memory:
        """One of its documents."""
        ...


def incomplete(memory: Memory) -> list[dict[str, Any]]:
    """The documents of a memory whose reading was interrupted. A corpus has only whole ones."""
    documents = [] if isinstance(memory, Searched) else memory.contents
    return [document for document in documents if not document.get("finished", True)]


def lacking(memory: Memory) -> dict[str, list[Any]]:
    """What no answer over a memory was looked for in, as JSON tells it: "damaged", the stretches of documents that are lost, and
    "incomplete", the names of documents that were read in part."""
    return {
        "damaged": [vars(lost) for lost in memory.damaged],
        "incomplete": [document["name"] for document in incomplete(memory)],
    }
