"""What every memory can do, whether it is in working memory (`ContextMemory`) or on disk (`store.MemoryStore`).

Whoever asks a memory needs no more than this. `sharedllm.open_memory` gives one for a file or a folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .context_memory import ContextMemory
from .segment import Segment


@dataclass(frozen=True)
class Damage:
    """Tokens start … end − 1 of a document that are lost, and why."""

    document: str
    start: int
    end: int
    reason: str


class Memory(Protocol):
    """One or more texts that were read."""

    @property
    def texts(self) -> int:
        """B, how many texts it holds. The documents of a store stand one after the other and are one text."""
        ...

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        ...

    @property
    def kept(self) -> Tensor:
        """(B,) of how many of them keys and values are kept."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every token is kept, so that a question can select."""
        ...

    @property
    def chunk_size(self) -> int:
        """C."""
        ...

    @property
    def pairs(self) -> int:
        """P, injected layers."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the model that read it; "" if unknown."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, where it is."""
        ...

    @property
    def contents(self) -> list[dict[str, Any]]:
        """What was read, in order: "name" and "tokens" of each, and what else is known of it."""
        ...

    @property
    def damaged(self) -> Sequence[Damage]:
        """What of it was lost on disk."""
        ...

    @property
    def segments(self) -> Sequence[Segment]:
        """What a question selects from.

        Raises:
            UserError: it does not hold every token.
        """
        ...

    def load(self) -> ContextMemory:
        """All that is kept, in working memory, as `generate(memory=…)` takes it."""
        ...
