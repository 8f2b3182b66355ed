"""ContextMemory: the keys and values that the lower model keeps of a batch of texts. It can be moved, cut, joined and asked.

Keys are stored before RoPE, together with the index of their chunk. A memory gets its positions only when it is used,
so it can be appended to, re-ordered or cut before.

Letters for dimensions, the same in the whole package (docs/glossary.md has them too): B rows of a batch; X texts of a
memory that serves a batch, each for B / X rows; T tokens of a text (context); L tokens of running text; Q tokens of a
question; N chunks; C tokens a chunk; S kept tokens (the longest text's; shorter ones are padded); Z slots of all segments;
P injection pairs; H query heads; G key-value heads; D numbers a head; E hidden size; W window; M lower layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..context.chunking import cat_ragged
from ..utils.errors import UserError
from .segment import Segment, Sources, columns_of, followed, named, placed


@dataclass(frozen=True)
class ContextMemory:
    """Keys and values of the context of B texts, one pair of tensors for each injected layer. Models that read selected
    tokens deeper also keep the residual stream to continue from.

    keys        P tensors (B, G, S, D), before RoPE; padding is zero
    values      P tensors (B, G, S, D)
    mask        (B, S) bool, True for kept tokens
    chunk       (B, S) int64, chunk of each kept token: 0 for the oldest
    position    (B, S) int64, its position in its text
    stride      (B, S) int64, how many tokens it represents
    token_ids   (B, T) int32, the tokens that were read, padded with 0
    lengths     (B,) int64, number of tokens read of each text
    chunk_size  C
    residuals   () or one tensor (B, 1, S, E): the residual stream entering layer M
    sources     for each text the documents read: dicts with at least "name" and "tokens"
    fingerprint identifies the weights and tree settings that made it; "" if unknown
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    chunk: Tensor
    position: Tensor
    stride: Tensor
    token_ids: Tensor
    lengths: Tensor
    chunk_size: int
    residuals: tuple[Tensor, ...] = ()
    sources: Sources = ()
    fingerprint: str = ""

    def __post_init__(self):
        if not self.sources:
            object.__setattr__(self, "sources", tuple(() for _ in range(len(self.lengths))))

    def __repr__(self) -> str:
        """Shapes in place of tensors: kept tokens and tokens read are those of the longest text."""
        kept, read = self.mask.shape[1], self.token_ids.shape[1]
        return f"ContextMemory(texts={len(self)}, kept={kept}, read={read}, layers={self.pairs}, bytes={self.nbytes})"

    def __len__(self) -> int:
        """B, the number of texts."""
        return len(self.lengths)

    @property
    def texts(self) -> int:
        """B, the number of texts."""
        return len(self)

    @property
    def tokens(self) -> int:
        """Total number of tokens read."""
        return int(self.lengths.sum())

    @property
    def pairs(self) -> int:
        """P, the number of injected layers."""
        return len(self.keys)

    @property
    def contents(self) -> list[dict]:
        """The documents read, text by text: dicts with at least "name" and "tokens"."""
        return [source for text, known in zip(self.named, self.sources, strict=True) if known for source in text]

    @property
    def named(self) -> Sources:
        """The sources of each text; a text of unknown source is called "the text"."""
        return tuple(named(text, n) for text, n in zip(self.sources, self.lengths.tolist(), strict=True))

    @property
    def damaged(self) -> tuple[()]:
        """Nothing: a memory in RAM is never damaged."""
        return ()

    def load(self) -> "ContextMemory":
        """Returns itself: it is in RAM already."""
        return self

    @property
    def chunks(self) -> Tensor:
        """(B,) number of chunks of each text."""
        return (self.lengths + self.chunk_size - 1) // self.chunk_size

    @property
    def kept(self) -> Tensor:
        """(B,) number of kept tokens of each text."""
        return self.mask.sum(1)

    @property
    def complete(self) -> bool:
        """Whether every token was kept on purpose (stride 1). A short text may lose no token by chance; that does not
        count."""
        whole = (self.kept == self.lengths).all() & (self.stride[self.mask] == 1).all()
        return bool(whole & (self.lengths > 0).any())

    @property
    def segments(self) -> list[Segment]:
        """The whole memory as one segment to select from.

        Raises:
            UserError: the memory does not hold every token.
        """
        if not self.complete:
            raise UserError("the memory does not hold every token: read the text with keep_all=True to select from it.")
        return [
            Segment(
                token_ids=self.token_ids,
                lengths=self.lengths,
                chunk_size=self.chunk_size,
                pairs=len(self.keys),
                keys=lambda pair, columns: columns_of(self.keys[pair], columns),
                values=lambda pair, columns: columns_of(self.values[pair], columns),
                residuals=partial(columns_of, self.residuals[0]) if self.residuals else None,
                sources=tuple(placed(text) for text in self.named),
                fingerprint=self.fingerprint,
            )
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, masks, positions and token ids."""
        return sum(t.nbytes for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: `keys.0`, `values.0`, …, `residuals.0`, `mask`, `chunk`, `position`, `stride`, `token_ids`,
        `lengths`."""
        layers = {f"{kind}.{i}": t for kind in _BY_HEAD for i, t in enumerate(getattr(self, kind))}
        return layers | {n: getattr(self, n) for n in _PER_TOKEN + ("token_ids", "lengths")}

    def _map(self, function: Callable[[Tensor], Tensor], **changes) -> "ContextMemory":
        return replace(
            self,
            **self._by_head(function),
            **{n: function(getattr(self, n)) for n in _PER_TOKEN + ("token_ids", "lengths")},
            **changes,
        )

    def _by_head(self, function: Callable[[Tensor], Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Apply a function to all tensors (B, G, S, D); the results by field."""
        return {kind: tuple(function(tensor) for tensor in getattr(self, kind)) for kind in _BY_HEAD}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "ContextMemory":
        """Move to a device; `dtype` applies to keys and values only."""
        return self._map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def detach(self) -> "ContextMemory":
        return self._map(Tensor.detach)

    def index_select(self, index: Tensor | list[int]) -> "ContextMemory":
        """The texts `index` (n,), in that order, repeats allowed."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.lengths.device)
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < len(self)):
            raise UserError(f"index={index.tolist()} is outside the memory's {len(self)} texts.")
        return self._map(lambda t: t.index_select(0, index), sources=tuple(self.sources[i] for i in index.tolist()))

    def repeat_interleave(self, repeats: int) -> "ContextMemory":
        """Repeat every text `repeats` times in a row, as beam search needs it."""
        return self.index_select(torch.arange(len(self)).repeat_interleave(repeats))

    def slice(self, start: Tensor | int, stop: Tensor | int) -> "ContextMemory":
        """The part of each text between `start` and `stop`. Between two chunk borders it equals a memory of that part alone.

        Args:
            start, stop: (B,) token positions, or one for all texts; `start` is a chunk border. A `stop` inside a chunk
                drops the chunk's later kept tokens. The list of sources is unchanged.
        """
        start, stop = (torch.as_tensor(t, device=self.lengths.device).expand(len(self)) for t in (start, stop))
        stop = torch.minimum(stop, self.lengths)
        if (start % self.chunk_size).any() or (start < 0).any() or (start > stop).any():
            raise UserError(
                f"start={start.tolist()} must be multiples of chunk_size={self.chunk_size} between 0 and {stop.tolist()}."
            )
        inside = self.mask & (self.position >= start[:, None]) & (self.position < stop[:, None])
        cut = replace(
            self, chunk=self.chunk - (start // self.chunk_size)[:, None], position=self.position - start[:, None]
        )
        lengths = stop - start
        columns = torch.arange(int(lengths.max()) if len(lengths) else 0, device=lengths.device)
        real = columns < lengths[:, None]
        ids = self.token_ids.gather(1, ((start[:, None] + columns) * real)) * real
        return replace(cut._compact(inside), token_ids=ids, lengths=lengths)

    def append(self, later: "ContextMemory") -> "ContextMemory":
        """Append the texts of `later` to those of this memory, text by text.

        Chunks are the unit: each text of this memory must end at a chunk border (its length a multiple of C). To
        continue from any length use `SharedLLMModel.append`, which reads the unfinished chunk again.

        Raises:
            UserError: the number of texts, the fingerprints or the shapes differ, or a chunk is unfinished.
        """
        for name, ours, theirs in (
            ("number of texts", len(self), len(later)),
            ("chunk_size", self.chunk_size, later.chunk_size),
            ("fingerprint", self.fingerprint, later.fingerprint),
            ("number of injected layers", len(self.keys), len(later.keys)),
            ("number of residual streams", len(self.residuals), len(later.residuals)),
            ("dtype", {t.dtype for t in self.keys}, {t.dtype for t in later.keys}),
            ("heads and head size", *(({(t.shape[1], t.shape[3]) for t in m.keys}) for m in (self, later))),
        ):
            if ours != theirs:
                raise UserError(
                    f"can't append: {name} is {ours!r} here and {theirs!r} there; read both with one model."
                )
        if (self.lengths % self.chunk_size).any():
            raise UserError(
                f"can't append: lengths={self.lengths.tolist()} end inside a chunk of {self.chunk_size}; "
                "use the model's append(), which reads the unfinished chunk again."
            )
        return replace(
            self,
            **{
                kind: tuple(torch.cat(pair, 2) for pair in zip(getattr(self, kind), getattr(later, kind), strict=True))
                for kind in _BY_HEAD
            },
            mask=torch.cat([self.mask, later.mask], 1),
            chunk=torch.cat([self.chunk, later.chunk + self.chunks[:, None]], 1),
            position=torch.cat([self.position, later.position + self.lengths[:, None]], 1),
            stride=torch.cat([self.stride, later.stride], 1),
            token_ids=cat_ragged(self.token_ids, self.lengths, later.token_ids, later.lengths),
            lengths=self.lengths + later.lengths,
            sources=followed(self.sources, self.lengths, later.sources, later.lengths),
        )._compact()

    def padded(self, width: int) -> "ContextMemory":
        """The same memory with S = `width`, at least the present S: padding is added after the kept tokens."""
        missing = width - self.mask.shape[1]
        return replace(
            self,
            **self._by_head(lambda tensor: pad(tensor, (0, 0, 0, missing))),
            **{name: pad(getattr(self, name), (0, missing)) for name in _PER_TOKEN},
        )

    def _compact(self, keep: Tensor | None = None) -> "ContextMemory":
        """Drop the entries outside `keep` (B, S) and move the rest of each text to the front, padding with zeros."""
        keep = self.mask if keep is None else keep
        counts = keep.sum(1)
        width = int(counts.max()) if len(counts) else 0
        order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)[:, :width]
        mask = torch.arange(width, device=keep.device) < counts[:, None]

        def gather(tensor: Tensor) -> Tensor:
            return tensor.gather(1, order).masked_fill(~mask, 0)

        def gather_heads(tensor: Tensor) -> Tensor:
            index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
            return tensor.gather(2, index).masked_fill(~mask[:, None, :, None], 0)

        return replace(
            self,
            **self._by_head(gather_heads),
            mask=mask,
            **{n: gather(getattr(self, n)) for n in ("chunk", "position", "stride")},
        )


_BY_HEAD = ("keys", "values", "residuals")
_PER_TOKEN = ("mask", "chunk", "position", "stride")


def stack(memories: list[ContextMemory]) -> ContextMemory:
    """Stack memories of one model into one batch, padded to the longest."""
    width = max(memory.mask.shape[1] for memory in memories)
    memories = [memory.padded(width) for memory in memories]
    first, tokens = memories[0], max(memory.token_ids.shape[1] for memory in memories)
    return replace(
        first,
        **{k: tuple(map(torch.cat, zip(*(getattr(m, k) for m in memories), strict=True))) for k in _BY_HEAD},
        token_ids=torch.cat([pad(m.token_ids, (0, tokens - m.token_ids.shape[1])) for m in memories]),
        sources=tuple(texts for memory in memories for texts in memory.sources),
        **{name: torch.cat([getattr(m, name) for m in memories]) for name in (*_PER_TOKEN, "lengths")},
    )
