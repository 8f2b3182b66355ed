"""A corpus that can be asked: documents are ranked first, then pieces within the best ones.

Both steps spend the same budget: of tokens that are read for a question. The first needs only the index, which is in RAM; the
second fetches of the best documents what it scores, and the tokens it takes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..memory.context_memory import ContextMemory
from ..memory.file import library
from ..memory.interface import Damage
from ..memory.segment import Segment
from ..model.backbone import SharedLLMModel
from ..scoring.rankings import join
from ..store import Block, Document, MemoryStore
from ..store.manifest import Manifest
from ..utils.errors import UserError
from .cache import DiskCache
from .index import Index, best
from .manifest import CorpusManifest, Part, read_part
from .objects import Lost, Place
from .ranged import RangedBlock
from .steps import Steps

# Most documents, and most of their tokens, among which pieces are chosen.
DOCUMENTS, TOKENS = 8, 2**18
# Blocks and parts that stay open for the next question.
_OPEN = 256


class Corpus:
    """The documents of a corpus as one memory (`memory.interface.Memory`) that has to be narrowed for each question.

    documents  most documents that are searched for pieces. room: most tokens of them
    """

    texts = 1
    complete = True

    def __init__(
        self, place: Place, manifest: CorpusManifest, index: Index, *, documents: int = DOCUMENTS, room: int = TOKENS
    ):
        self.place, self.manifest, self.index = place, manifest, index
        self.documents, self.room = documents, room
        self._cache = None if place.local else DiskCache.of_user()
        self._blocks: OrderedDict[tuple[str, str], RangedBlock] = OrderedDict()
        self._parts: OrderedDict[str, Part] = OrderedDict()

    @property
    def tokens(self) -> int:
        return self.manifest.totals.tokens

    @property
    def kept(self) -> Tensor:
        return torch.tensor([self.tokens])

    @property
    def chunk_size(self) -> int:
        return self.manifest.settings.chunk_size

    @property
    def pairs(self) -> int:
        return self.manifest.settings.pairs

    @property
    def fingerprint(self) -> str:
        return self.manifest.settings.fingerprint

    @property
    def nbytes(self) -> int:
        return self.manifest.totals.nbytes

    @property
    def contents(self) -> list[dict[str, Any]]:
        rows = zip(
            self.index.names, self.index.titles, self.index.tokens.tolist(), self.index.characters.tolist(), strict=True
        )
        return [
            {"name": name, "tokens": tokens, "characters": characters, "finished": True}
            | ({"title": title} if title else {})
            for name, title, tokens, characters in rows
        ]

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Damage is found when bytes are fetched, and is an error then; `checking.lost` reads all of them."""
        return ()

    @property
    def segments(self) -> Sequence[Segment]:
        raise UserError(f"{self.place.uri} is a corpus: it is asked, or name the document to open, `only(NAME)`.")

    def load(self) -> ContextMemory:
        raise UserError(f"{self.place.uri} is a corpus: it can't be read as a whole; ask it with a budget.")

    def nearest(
        self, model: SharedLLMModel, question: str, asked: Int[Tensor, "1 Q"], own: Bool[Tensor, "1 Q"]
    ) -> MemoryStore:
        """The documents that a question needs, as a memory to select from.

        Args:
            question: its text. asked: (1, Q) its tokens, as they follow the prefix. own: (1, Q) bool, the question's own.

        Raises:
            UserError: the corpus is another model's, or a part of it is missing or damaged.
        """
        model.check_fingerprint(self.fingerprint)
        return self._opened(
            best(self.scores(model, question, asked, own), self.index.tokens, self.documents, self.room)
        )

    def scores(
        self, model: SharedLLMModel, question: str, asked: Int[Tensor, "1 Q"], own: Bool[Tensor, "1 Q"]
    ) -> Tensor:
        """(n,) how much each document matters to a question: by its words, and by the keys of the model's selection heads."""
        words = self.index.words.scores(question)
        if self.index.keys is None or not model.config.selection_heads:
            return words
        return join(words, self.index.keys.scores(model, asked, own))

    def only(self, name: str) -> MemoryStore:
        """One document as a memory.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self.index.names:
            raise UserError(f"no document is named {name!r}: see `sharedllm info {self.place.uri}`.")
        return self._opened([self.index.names.index(name)])

    def _opened(self, which: list[int]) -> MemoryStore:
        documents = []
        for number in which:
            shard, name = self.index.shards[int(self.index.owner[number])], self.index.names[number]
            document = self.document(self.part(shard), name)
            # Blocks of several shards are told apart by their shard.
            inside = tuple(replace(block, file=f"{shard}/{block.file}") for block in document.blocks)
            documents.append(replace(document, blocks=inside))
        settings = self.manifest.settings
        manifest = Manifest(
            settings.fingerprint,
            settings.tokenizer,
            settings.chunk_size,
            settings.pairs,
            True,
            settings.storage,
            tuple(documents),
            library=library(),
        )
        # What can't be opened is an error here: a store would leave it out.
        blocks = {block.file: self._block(block, manifest) for document in documents for block in document.blocks}
        return MemoryStore.of(Path(self.place.uri), manifest, lambda block: blocks[block.file])

    def document(self, part: Part, name: str) -> Document:
        """
        Raises:
            Lost: the part has no document of that name, though the index says so.
        """
        for document in part.documents:
            if document.name == name:
                return document
        raise Lost.damaged(f"{self.place.uri}/parts/{part.shard}.json", f"it holds no {name}")

    def part(self, shard: str) -> Part:
        """
        Raises:
            Lost: it is missing or damaged.
        """
        part = self._parts.get(shard) or read_part(self.place, shard)
        if part is None:
            raise Lost.missing(f"{self.place.uri}/parts/{shard}.json")
        return _used(self._parts, shard, part)

    def _block(self, block: Block, manifest: Manifest) -> RangedBlock:
        shard, _, file = block.file.partition("/")
        opened = self._blocks.get((shard, file))
        if opened is None:
            steps = Steps(self.place, self.part(shard), self._cache)
            opened = RangedBlock(replace(block, file=file), manifest, steps, steps.name)
        return _used(self._blocks, (shard, file), opened)


def _used(kept: OrderedDict, key: Any, entry: Any) -> Any:
    """The entry of a key, which is now the last to go. Other threads may do the same at any time."""
    kept.pop(key, None)
    kept[key] = entry
    while len(kept) > _OPEN:
        kept.popitem(last=False)
    return entry
