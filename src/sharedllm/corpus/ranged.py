"""Blocks of memories that lie elsewhere: of each only the bytes that a question needs are fetched.

A shard's `blocks` object is many memory files in a row, each in the format of safetensors: eight bytes that say how long the
header is, the header with the place of every tensor, the tensors. A tensor's tokens lie one after the other, head by head, so any
of them are a few ranges of bytes.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..memory.int8 import dequantised
from ..memory.schema import SENTENCES
from ..memory.segment import Segment, Stored
from ..store.blocks import Form
from ..store.manifest import Block, Manifest
from ..utils.errors import UserError
from .objects import Lost

# Bytes that are fetched and checked together.
STEP = 2**17

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
# Spans of bytes → their content.
Fetch = Callable[[Sequence[tuple[int, int]]], list[bytes]]


class RangedBlock:
    """An open block, as `store.blocks.BlockFile`. Token ids are read at once, keys and values when they are used."""

    def __init__(self, block: Block, manifest: Manifest, fetch: Fetch, name: str):
        """
        Args:
            block: its `file` is "OFFSET+BYTES". fetch: reads the object that it is in. name: of that object, with its address.

        Raises:
            UserError: it is not the block that was written.
        """
        self._fetch, self._name = fetch, name
        self._offset, self.nbytes = map(int, block.file.split("+"))
        length = int.from_bytes(self._bytes([(0, 8)])[0], "little")
        if not 0 < length < self.nbytes:
            raise self._damaged("the length of its header is impossible")
        self._data = 8 + length
        try:
            self._entries: dict[str, Any] = json.loads(self._bytes([(8, self._data)])[0])
            self.header: dict[str, Any] = json.loads(self._entries.pop("__metadata__")["sharedllm"])
            said = self.header["checksum"], self.header["fingerprint"], self.header["tokenizer"], self.header["storage"]
        except (ValueError, KeyError, TypeError):
            raise self._damaged("its header can't be read") from None
        if said != (block.sha256, manifest.fingerprint, manifest.tokenizer, manifest.storage):
            raise self._damaged("it is not the block that was written")
        self.tokens, self.pairs = block.tokens, self.header["layers"]
        self.token_ids, self.lengths = self._whole("token_ids"), self._whole("lengths")
        if self.token_ids.shape != (1, block.tokens) or self.lengths.tolist() != [block.tokens]:
            raise self._damaged(f"it holds {self.lengths.tolist()} tokens, not {block.tokens}")

    @property
    def form(self) -> Form:
        large = [(n, e) for n, e in sorted(self._entries.items()) if n.startswith(("keys.", "values.", "residuals."))]
        return tuple((n, DTYPES[e["dtype"]], e["shape"][1], e["shape"][3]) for n, e in large if len(e["shape"]) == 4)

    def segment(self, start: int, sources: tuple[dict, ...]) -> Segment:
        """The block as a segment whose first token is at slot `start`."""
        made_by = self.header.get("encoder")
        return Segment(
            token_ids=self.token_ids,
            lengths=self.lengths,
            chunk_size=self.header["chunk_size"],
            pairs=self.pairs,
            keys=lambda pair, columns: self._heads(f"keys.{pair}", columns),
            values=lambda pair, columns: self._heads(f"values.{pair}", columns),
            residuals=partial(self._heads, "residuals.0") if "residuals.0" in self._entries else None,
            embedded=None if made_by is None else lambda: Stored(made_by, self._whole(SENTENCES)),
            start=start,
            sources=(sources,),
            fingerprint=self.header["fingerprint"],
        )

    def kept(self) -> dict[str, Tensor]:
        """Every token of a corpus is kept."""
        return {"position": torch.arange(self.tokens), "stride": torch.ones(self.tokens, dtype=torch.long)}

    def _heads(self, name: str, columns: Tensor | None) -> Tensor:
        tensor = self._columns(name, columns)
        if self.header["storage"] == "model":
            return tensor
        scale = self._columns(f"{name}.scale", columns)
        return dequantised(tensor, scale, getattr(torch, self.header["dtype"]))

    def _columns(self, name: str, columns: Tensor | None) -> Tensor:
        """(1, G, c, …) of a tensor (1, G, S, …) at columns (1, c); None takes all."""
        if columns is None:
            return self._whole(name)
        entry = self._entries[name]
        _, groups, slots, *rest = entry["shape"]
        row = math.prod(rest) * DTYPES[entry["dtype"]].itemsize
        runs = _runs(columns[0].tolist())
        begin = self._data + entry["data_offsets"][0]
        spans = [
            (begin + (group * slots + first) * row, begin + (group * slots + end) * row)
            for group in range(groups)
            for first, end in runs
        ]
        return self._tensor(name, b"".join(self._bytes(spans)), (1, groups, columns.shape[1], *rest))

    def _whole(self, name: str) -> Tensor:
        entry = self._entries[name]
        start, end = entry["data_offsets"]
        (found,) = self._bytes([(self._data + start, self._data + end)])
        return self._tensor(name, found, tuple(entry["shape"]))

    def _tensor(self, name: str, content: bytes, shape: tuple[int, ...]) -> Tensor:
        dtype = DTYPES[self._entries[name]["dtype"]]
        expected = math.prod(shape) * dtype.itemsize
        if len(content) != expected:
            raise self._damaged(f"{name} has {len(content):,} bytes, not {expected:,}")
        # `frombuffer` takes no empty one.
        flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.zeros(0, dtype=dtype)
        return flat.reshape(shape)

    def _bytes(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        if any(end > self.nbytes for _, end in spans):
            raise self._damaged("a tensor lies outside it")
        return self._fetch([(self._offset + start, self._offset + end) for start, end in spans])

    def _damaged(self, what: str) -> UserError:
        return Lost.damaged(self._name, f"at byte {self._offset:,} {what}")


def _runs(columns: list[int]) -> list[tuple[int, int]]:
    """Stretches first … end − 1 of neighbouring columns, in their order."""
    runs: list[tuple[int, int]] = []
    for column in columns:
        if runs and runs[-1][1] == column:
            runs[-1] = runs[-1][0], column + 1
        else:
            runs.append((column, column + 1))
    return runs
