"""A block of a store as a segment to select from: memory-mapped, read on demand."""

import os
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..memory.context_memory import ContextMemory
from ..memory.opening import header_of, heads, opened, tensors_of
from ..memory.schema import SENTENCES
from ..memory.segment import Segment, Stored, columns_of
from ..utils.errors import UserError, refusal
from .manifest import Block, Manifest
from .meanings import BlockMeanings

# Name, dtype, heads and dimensions of each of a block's keys, values and residual streams.
Form = tuple[tuple[str, torch.dtype, int, int], ...]


def form_of(tensors: dict[str, Tensor]) -> Form:
    """What all blocks of a store have in common."""
    large = [(name, t) for name, t in sorted(tensors.items()) if name.startswith(("keys.", "values.", "residuals."))]
    return tuple((name, t.dtype, t.shape[1], t.shape[3]) for name, t in large if t.ndim == 4)


class OpenBlock(Protocol):
    """A block that can be read. form: see `form_of`. nbytes: its size."""

    @property
    def form(self) -> Form: ...

    @property
    def nbytes(self) -> int: ...

    def segment(self, start: int, sources: tuple[dict, ...]) -> Segment:
        """The block as a segment whose first token is at slot `start`."""
        ...

    def kept(self) -> dict[str, Tensor]:
        """`position` in the block and `stride`, (S,) each, of the kept tokens."""
        ...


class BlockFile:
    """An open block: its tensors stay readable even if a writer removes the file."""

    def __init__(self, folder: Path, block: Block, manifest: Manifest, verify: bool):
        """
        Raises:
            FileNotFoundError: no such file. UserError: it is damaged, or not the block that was written.
        """
        path = folder / "blocks" / f"{block.file}.memory"
        try:
            self.nbytes = path.stat().st_size
            with opened(path) as file:
                self.header = header_of(path, file)
                if self.header["checksum"] != block.sha256:
                    raise UserError(f"{path} is not the block that was written; read the document again.")
                self.tensors = tensors_of(path, file, self.header, verify)
            self._check(path, block, manifest)
        except (ValueError, OSError) as error:
            if not os.path.lexists(path):  # a writer removed it meanwhile
                raise FileNotFoundError(path) from None
            if isinstance(error, OSError):  # a link to nowhere or to itself, or no permission
                raise UserError(f"{path} can't be opened: {refusal(error, 'read the document again')}.") from None
            raise
        self.pairs, self.form = self.header["layers"], form_of(self.tensors)
        self._meanings = BlockMeanings(folder, path.name, block.sha256, block.tokens)

    def _check(self, path: Path, block: Block, manifest: Manifest) -> None:
        """Compare the manifest's fields with the block's."""
        lengths, stride = self.tensors["lengths"].tolist(), self.tensors["stride"]
        said = {
            "tokens": ([block.tokens], lengths),
            "columns of token ids": (block.tokens, self.tensors["token_ids"].shape[1]),
            "fingerprint": (manifest.fingerprint, self.header["fingerprint"]),
            "tokenizer": (manifest.tokenizer, self.header["tokenizer"]),
            "chunk_size": (manifest.chunk_size, self.header["chunk_size"]),
            "layers": (manifest.pairs, self.header["layers"]),
            "storage": (manifest.storage, self.header["storage"]),
            "kept tokens": (block.tokens, stride.shape[1]) if manifest.complete else (0, 0),
        }
        for name, (theirs, ours) in said.items():
            if theirs != ours:
                raise UserError(f"{path} has {name} {ours}, the manifest says {theirs}; read the document again.")

    def segment(self, start: int, sources: tuple[dict, ...]) -> Segment:
        """The block as a segment whose first token is at slot `start`."""
        made_by = self.header.get("encoder")
        return Segment(
            token_ids=self.tensors["token_ids"],
            lengths=self.tensors["lengths"],
            chunk_size=self.header["chunk_size"],
            pairs=self.pairs,
            keys=lambda pair, columns: self._heads(f"keys.{pair}", columns),
            values=lambda pair, columns: self._heads(f"values.{pair}", columns),
            residuals=partial(self._heads, "residuals.0") if "residuals.0" in self.tensors else None,
            embedded=None if made_by is None else lambda: Stored(made_by, self.tensors[SENTENCES]),
            meanings=self._meanings,
            start=start,
            sources=(sources,),
            fingerprint=self.header["fingerprint"],
        )

    def kept(self) -> dict[str, Tensor]:
        """`position` in the block and `stride`, (S,) each, of the kept tokens."""
        return {name: self.tensors[name][0] for name in ("position", "stride")}

    def _heads(self, name: str, columns: Tensor | None) -> Tensor:
        return heads(self.header, self.tensors, name, lambda tensor: columns_of(tensor, columns))


def joined(blocks: list[tuple[int, OpenBlock]], sources: tuple[dict, ...], fingerprint: str, size: int, end: int):
    """Join the kept tokens of blocks, each beginning at its slot, into the memory of one text that ends at slot `end`."""
    segments = [block.segment(start, ()) for start, block in blocks]
    residuals = [segment.residuals(None) for segment in segments if segment.residuals is not None]
    position = torch.cat([start + block.kept()["position"] for start, block in blocks])[None]
    ids = torch.zeros(1, end, dtype=torch.int32)
    for segment in segments:
        ids[:, segment.start : segment.end] = segment.token_ids
    return ContextMemory(
        keys=tuple(torch.cat([p.keys(i, None) for p in segments], 2) for i in range(segments[0].pairs)),
        values=tuple(torch.cat([p.values(i, None) for p in segments], 2) for i in range(segments[0].pairs)),
        residuals=(torch.cat(residuals, 2),) if residuals else (),
        mask=torch.ones_like(position, dtype=torch.bool),
        chunk=position // size,
        position=position,
        stride=torch.cat([block.kept()["stride"] for _, block in blocks])[None],
        token_ids=ids,
        lengths=torch.tensor([end]),
        chunk_size=size,
        sources=(sources,),
        fingerprint=fingerprint,
    )
