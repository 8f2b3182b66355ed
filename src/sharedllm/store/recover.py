"""Recovers the undamaged blocks of a memory whose manifest or blocks are missing or damaged, as a new memory. The old one is
not changed."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..documents.places import Origin
from ..memory.opening import header_of, opened, tensors_of
from ..utils.errors import ITS_MODEL, UserError
from ..utils.fields import whole
from ..utils.text import decode_pieces
from ..utils.text_files import is_text
from .blocks import Form, form_of
from .manifest import NAME, ORIGIN, Block, Document, Manifest, is_block, origin_of, read_manifest
from .writer import writing

# Header fields that are equal in all blocks of a memory.
_ALIKE = ("fingerprint", "tokenizer", "chunk_size", "layers", "storage")
_COUNT = whole(0)


@dataclass(frozen=True)
class _Found:
    """An undamaged block. name, start: its document, and its first token in it; "" and 0 if it does not say. place: of the
    document among the others; −1 if it does not say. ends: the document ended here. origin: its part of the document's; None
    if it does not say."""

    path: Path
    header: dict[str, Any]
    ids: Tensor
    complete: bool
    form: Form
    name: str
    start: int
    place: int
    ends: bool
    origin: Origin | None

    @property
    def key(self) -> tuple[str, str]:
        """What a manifest names it by."""
        return self.path.stem, self.header["checksum"]

    @property
    def alike(self) -> tuple[Any, ...]:
        return *(self.header[field] for field in _ALIKE), self.form

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


def recover(
    folder: Path,
    output: Path,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_mark: str,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Make a new memory from the blocks in a folder.

    An undamaged manifest says which blocks belong to the memory, and how; only without one, or where it is another memory's, are
    all blocks taken. These store the name of their document, their place in it, and its pages, sections and the like. If one
    is missing, the text after it becomes a separate document, without numbers of lines. Documents are in their old order, and
    finished if all of their text is there; blocks of older versions do not say these two.

    Args:
        tokenizer: of the model that read them; decoding gives the numbers of characters. tokenizer_mark: identifies it.
        say: called with one line for all that is left out.

    Raises:
        UserError: there is no document or no undamaged block, they are another tokenizer's, or `output` holds documents.
    """
    named, blocks = _named(folder, _whole_blocks(folder, say), say)
    kind = Counter(b.alike for b in blocks for _ in b.ids).most_common(1)[0][0]
    for block in blocks:
        if block.alike != kind:
            say(f"left out: {block.path.name} is of another model or kind than most")
    blocks = [b for b in blocks if b.alike == kind]
    fingerprint, mark, chunk_size, layers, storage, _ = kind
    if mark != tokenizer_mark:
        raise UserError(f"{folder} was made with another tokenizer: {ITS_MODEL}.")
    made = _Made(tokenizer, chunk_size, say)
    parts = list(made.of_blocks(blocks) if named is None else made.of_named(named, blocks))
    manifest = Manifest(
        fingerprint, mark, chunk_size, layers, all(b.complete for _, run in parts for b in run), storage,
        tuple(document for document, _ in parts), model=named.model if named is not None else "",
    )  # fmt: skip
    with writing(output) as writer:
        writer.adopt(manifest, (b.path for _, run in parts for b in run))
        writer.commit()


def _whole_blocks(folder: Path, say: Callable[[str], None]) -> list[_Found]:
    """The blocks that can be opened, oldest first."""
    if not (folder / "blocks").is_dir():
        raise UserError(f"{folder} is not a memory: it has no folder blocks.")
    paths = [p for p in (folder / "blocks").iterdir() if is_block(p.name) and p.suffix == ".memory"]
    found = []
    for path in sorted(paths, key=lambda p: (p.lstat().st_mtime_ns, p.name)):
        try:
            with opened(path) as file:
                header = header_of(path, file)
                tensors = tensors_of(path, file, header)
        except UserError as error:
            say(f"left out: {error}")
            continue
        if header["texts"] != 1 or not 0 < int(tensors["lengths"][0]) == tensors["token_ids"].shape[1]:
            say(f"left out: {path.name} does not hold one text")
            continue
        length, stride = int(tensors["lengths"][0]), tensors["stride"]
        source = (header["sources"][0] or [{}])[0]
        name, start = source.get("name", ""), source.get("from_token", 0)
        start = start if _COUNT.misfit(start) is None else 0
        place = source.get("place", -1)
        place = place if _COUNT.misfit(place) is None else -1
        ends = source.get("ends") is True
        origin = source.get("origin")
        origin = origin_of(origin) if ORIGIN.misfit(origin) is None else None
        complete = stride.shape[1] == length and bool((stride == 1).all())
        ids = tensors["token_ids"][0, :length].clone()
        found.append(_Found(path, header, ids, complete, form_of(tensors), name, start, place, ends, origin))
    if not found:
        named = _manifest(folder)
        if not paths and named is not None and not named.documents:
            raise UserError(
                f"{folder} holds no document, so there is nothing to recover: read one with `sharedllm read … -o {folder}`."
            )
        raise UserError(f"{folder} has no undamaged block: read the texts again.")
    return found


def _named(folder: Path, blocks: list[_Found], say: Callable[[str], None]) -> tuple[Manifest | None, list[_Found]]:
    """The manifest, and the blocks that it names. Where it is lost, or names none of them: None, and all blocks."""
    manifest = _manifest(folder)
    keys = {(b.file, b.sha256) for d in manifest.documents for b in d.blocks} if manifest is not None else set()
    if keys.isdisjoint(b.key for b in blocks):
        return None, blocks
    for block in blocks:
        if block.key not in keys:
            say(f"left out: {block.path.name} is none of the blocks that {NAME} names")
    return manifest, [b for b in blocks if b.key in keys]


def _manifest(folder: Path) -> Manifest | None:
    """What an undamaged manifest says."""
    try:
        return read_manifest(folder)
    except UserError:
        return None


@dataclass
class _Made:
    """Makes documents of blocks, each with the blocks that it has. taken: their names so far."""

    tokenizer: PreTrainedTokenizerBase
    chunk_size: int
    say: Callable[[str], None]
    taken: set[str] = field(default_factory=set)

    def of_named(self, manifest: Manifest, blocks: list[_Found]) -> Iterator[tuple[Document, list[_Found]]]:
        """The documents of a manifest: those that have lost nothing as it says, and the rest of the others."""
        found = {block.key: block for block in blocks}
        own = {d.name: [found.get((b.file, b.sha256)) for b in d.blocks] for d in manifest.documents}
        self.taken |= {name for name, theirs in own.items() if None not in theirs}
        for document in manifest.documents:
            theirs, start = own[document.name], 0
            rest = [block for block in theirs if block is not None]
            if len(rest) == len(theirs):
                yield document, rest
                continue
            for named, block in zip(document.blocks, theirs, strict=True):
                if block is None:
                    lost = f"{document.name}, tokens {start:,}–{start + named.tokens:,}"
                    self.say(f"left out: {lost}: blocks/{named.file}.memory is missing or damaged")
                start += named.tokens
            yield from self.of_blocks(rest)

    def of_blocks(self, blocks: list[_Found]) -> Iterator[tuple[Document, list[_Found]]]:
        """Documents of blocks, as these say."""
        for name, run in self._runs(blocks):
            shown = name if name and is_text(name) and run[0].start == 0 else f"{name} from {run[0].start:,}"
            shown = _free(shown if name else "recovered", self.taken)
            self.taken.add(shown)
            yield _document(self.tokenizer, shown, run), run

    def _runs(self, blocks: list[_Found]) -> Iterable[tuple[str, list[_Found]]]:
        """Runs of blocks without a gap, each with the name of its document."""
        runs: list[tuple[str, list[_Found]]] = []
        names = dict.fromkeys(b.name for b in sorted(blocks, key=lambda block: block.place))
        for name in names:
            run: list[_Found] = []
            # If two blocks begin at the same token, the longer, newer one was meant to replace the other.
            own = [
                ((b.start, -len(b.ids), -place) if name else (place,), b)
                for place, b in enumerate(blocks)
                if b.name == name
            ]
            for _, block in sorted(own, key=lambda entry: entry[0]):
                if run and name and block.start < run[-1].end:
                    self.say(f"left out: {block.path.name} holds an older end of {name}")
                elif run and name and block.start == run[-1].end and len(run[-1].ids) % self.chunk_size == 0:
                    run.append(block)
                else:
                    run = [block]
                    runs.append((name, run))
        return runs


def _free(name: str, taken: set[str]) -> str:
    names = [name, *(f"{name} {i}" for i in range(2, len(taken) + 3))]
    return next(n for n in names if n not in taken)


def _document(tokenizer: PreTrainedTokenizerBase, name: str, run: list[_Found]) -> Document:
    """Its text is the decoding of its tokens: if that equals the original text, reading can continue there."""
    cuts = list(itertools.accumulate((len(b.ids) for b in run), initial=0))
    texts = decode_pieces(tokenizer, torch.cat([b.ids for b in run]).tolist(), cuts)
    blocks = tuple(
        Block(b.path.stem, len(b.ids), len(text), b.header["checksum"], text.count("\n"))
        for b, text in zip(run, texts, strict=True)
    )
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    origin = _origin(run, [len(text) for text in texts])
    part_of = run[0].name if run[0].start else ""
    return Document(name, blocks, digest, not run[0].start and run[-1].ends, origin, run[0].place, part_of)


def _origin(run: list[_Found], lengths: list[int]) -> Origin | None:
    """That of a run of blocks with so many characters. Lines are not told where the text before them is lost."""
    places: list[tuple[int, str]] = []
    for block, before in zip(run, itertools.accumulate(lengths, initial=0), strict=False):
        for character, place in block.origin.places if block.origin is not None else ():
            if not places or places[-1][1] != place:
                places.append((before + character, place))
    last = run[-1].origin
    return last and Origin("", last.title, "" if run[0].start else last.unit, tuple(places))
