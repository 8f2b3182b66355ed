"""A stretch of text of which every token is kept, wherever its keys and values are stored."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

# For each text its documents.
Sources = tuple[tuple[dict, ...], ...]


@dataclass(frozen=True)
class Stored:
    """The sentences of all pieces of a text, embedded.

    encoder    the fingerprint of the sentence encoder
    sentences  (s, E) float16
    """

    encoder: str
    sentences: Tensor


class Meanings(Protocol):
    """Where a segment's states after more layers are kept, for other processes.

    layers: identifies the layers that read them.
    """

    def load(self, layers: str) -> Tensor | None:
        """(T, E) the states of all tokens; None if they are not kept."""
        ...

    def save(self, layers: str, states: Tensor) -> Tensor:
        """Keep the states of all tokens (T, E), if that can be done, and return them as `load` would."""
        ...


@dataclass(frozen=True)
class Segment:
    """One stretch from each of B texts.

    token_ids   (B, T) int32, padded after the end of a text
    lengths     (B,) int64, number of tokens
    chunk_size  C
    pairs       P, injected layers
    keys        pair, columns (B, c) or None for all → (B, G, c or T, D), before RoPE; read on demand
    values      as keys
    residuals   columns → (B, 1, c or T, E), the residual stream to continue from; None where it is not kept
    embedded    reads its sentences; None where the model had no sentence encoder when it was read
    meanings    keeps its tokens' states after more layers; None where nothing may be kept
    start       slot of the first token, a multiple of C
    sources     for each text its documents, with the slots at which they begin
    fingerprint identifies the model that read it; "" if unknown
    """

    token_ids: Tensor
    lengths: Tensor
    chunk_size: int
    pairs: int
    keys: Callable[[int, Tensor | None], Tensor]
    values: Callable[[int, Tensor | None], Tensor]
    residuals: Callable[[Tensor | None], Tensor] | None = None
    embedded: Callable[[], Stored] | None = None
    meanings: Meanings | None = None
    start: int = 0
    sources: Sources = ()
    fingerprint: str = ""

    @property
    def end(self) -> int:
        """Slot after the last token of the longest text."""
        return self.start + int(self.lengths.max())


def columns_of(heads: Tensor, columns: Tensor | None) -> Tensor:
    """(B, G, T, D) at columns (B, c) → (B, G, c, D); None takes all columns."""
    if columns is None:
        return heads
    index = columns.to(heads.device)[:, None, :, None]
    return heads.gather(2, index.expand(-1, heads.shape[1], -1, heads.shape[3]))


def named(sources: tuple[dict, ...], tokens: int) -> tuple[dict, ...]:
    """The sources of a text of so many tokens, each with "name" and "tokens", which callers of `save_memory` may leave out: then
    it is called "the text", and reaches to the end. So does a text without sources."""
    out, at = [], 0
    for source in sources or ({},):
        start = source.get("start", at)
        out.append({"name": "the text", "tokens": max(tokens - start, 0)} | source)
        at = start + out[-1]["tokens"]
    return tuple(out)


def followed(ours: Sources, our_lengths: Tensor, theirs: Sources, their_lengths: Tensor) -> Sources:
    """The sources of texts that others follow, text by text. What is unknown is named where the other part is known, because
    a text without sources is all of one unknown source.

    Args:
        our_lengths, their_lengths: (B,) number of tokens.
    """
    lengths = zip(our_lengths.tolist(), their_lengths.tolist(), strict=True)
    return tuple(
        (named(a, n) if n else a) + (named(b, m) if m else b) if a or b else ()
        for a, b, (n, m) in zip(ours, theirs, lengths, strict=True)
    )


def placed(sources: Iterable[dict]) -> tuple[dict, ...]:
    """Sources with the slot at which each begins: right after the previous one unless it says otherwise."""
    out, at = [], 0
    for source in sources:
        start = source.get("start", at)
        out.append(source | {"start": start})
        at = start + source["tokens"]
    return tuple(out)
