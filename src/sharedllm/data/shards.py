"""Tokenised text on disk: a folder with a manifest, and flat files of token ids for each split.

    folder/manifest.json             settings, SHA-256 of sources and tokenizer, documents and files of each split
    folder/train/tokens-00000.bin    ids, little-endian uint16 or uint32, one document after the other
    folder/validation/…              if a validation share was given

The folder appears under its name when it is complete, never before.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..utils.errors import UserError
from ..utils.files import put
from ..utils.scratch import scratch
from ..utils.text import tokenize
from .sources import HUB, documents, parse_hub, resolve

VERSION = 1
SHARD = "tokens-{:05d}.bin"


@dataclass(frozen=True)
class ShardSummary:
    """For each split the numbers of `documents`, `tokens`, UTF-8 `bytes` and `duplicates`, texts left out because they
    came before.

    `reused` says that the folder already existed.
    """

    splits: dict[str, dict[str, int]]
    reused: bool


def build_shards(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    validation: float = 0.0,
    seed: int = 0,
    text_field: str = "text",
    shard_tokens: int = 50_000_000,
    progress: Callable[[int], None] | None = None,
) -> ShardSummary:
    """Tokenise all documents of the sources into a folder, or keep the folder if it already holds exactly that.

    Files are the same if their names without folders and their bytes are. Hub datasets are identified by id,
    configuration and split, so a change on the hub goes unnoticed.

    Args:
        sources: as in `documents`. folder: the folder to write; parent folders are created.
        validation: expected share of documents for the validation split. A hash of text and `seed` decides for each.
        text_field: holds the text of a record.
        shard_tokens: most tokens of a file; a longer document has its own file.
        progress: called with the number of tokens of each written document.

    Raises:
        UserError: a setting or source is invalid; a document has no tokens; a split would be empty; or the folder holds
            something else.
        OSError: the folder can't be written.
    """
    if not 0 <= validation < 1:
        raise UserError(f"validation={validation} must be a share from 0 to below 1.")
    if shard_tokens < 1:
        raise UserError(f"shard_tokens={shard_tokens} must be at least 1.")
    folder, files = Path(folder), resolve(sources)
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    header = {
        "format_version": VERSION,
        "text_field": text_field,
        "validation": validation,
        "seed": seed,
        "shard_tokens": shard_tokens,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "vocab_size": vocabulary,
        "dtype": "uint16" if vocabulary <= 1 << 16 else "uint32",
        "sources": [_describe(name) for name in files],
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return ShardSummary(_totals(_keep(folder, header)), reused=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch(folder.parent) as above:
            temporary = above / folder.name
            temporary.mkdir()
            names = ("train", "validation") if validation else ("train",)
            writers = {name: _Writer(temporary / name, header["dtype"], shard_tokens) for name in names}
            seen: set[bytes] = set()
            for document in documents(files, text_field=text_field):
                raw = document.text.encode()
                digest = hashlib.sha256(raw).digest()
                draw = int.from_bytes(hashlib.sha256(f"{seed} ".encode() + digest).digest()[:8], "big") / 2**64
                writer = writers["validation" if draw < validation else "train"]
                if digest in seen:
                    writer.duplicates += 1
                    continue
                seen.add(digest)
                ids = tokenize(tokenizer, document.text)[0].numpy()
                if not len(ids):
                    raise UserError(f"{document.name} has no tokens: the tokenizer drops all its text; leave it out.")
                assert ids.max() < vocabulary, f"the ids of {document.name} exceed {vocabulary}"
                writer.add(ids, name=document.name, source=document.source, bytes=len(raw))
                if progress is not None:
                    progress(len(ids))
            if empty := [name for name, writer in writers.items() if not writer.shards]:
                none = f"a validation share of {validation} leaves none of {len(seen)} documents for {empty[0]}"
                raise UserError(f"{none}: give more documents, or name separate sources for validation.")
            manifest = header | {"splits": {name: writer.finish() for name, writer in writers.items()}}
            manifest["checksum"] = _digest(manifest)
            (temporary / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
            put(temporary, folder)
    except OSError as error:
        raise OSError(f"{folder} can't be made ({error.strerror or error}); nothing of it is left.") from error
    return ShardSummary(_totals(manifest), reused=False)


class TokenStore:
    """One split of a folder made by `build_shards`; the tokens stay on disk until they are read.

    Fields: folder, split: the opened split; nothing else is pickled.
        manifest: of the whole folder. names: of the documents; `len()` gives their number.
        lengths, bytes: (documents,) int64, tokens and UTF-8 bytes of each document.
        vocab_size: all ids are below it. tokenizer_fingerprint: see the function of that name.

    Raises:
        UserError: the manifest is missing, damaged or of another version; there is no such split; a file is missing or
            has another size.
    """

    def __init__(self, folder: str | Path, split: str = "train"):
        self.folder, self.split = Path(folder), split
        self.manifest = _read_manifest(self.folder)
        if split not in self.manifest["splits"]:
            raise UserError(f"{folder} has no split {split!r}: it holds {', '.join(self.manifest['splits'])}.")
        self.vocab_size: int = self.manifest["vocab_size"]
        self.tokenizer_fingerprint: str = self.manifest["tokenizer"]
        columns, shards = (self.manifest["splits"][split][part] for part in ("documents", "shards"))
        self.names: list[str] = columns["name"]
        self.lengths, self.bytes, self._shard, self._start = (
            np.array(columns[c], dtype=np.int64) for c in ("tokens", "bytes", "shard", "start")
        )
        dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        self._hashes = {self.folder / split / SHARD.format(i): s["sha256"] for i, s in enumerate(shards)}
        for path, shard in zip(self._hashes, shards, strict=True):
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                problem = "is missing" if size is None else f"has {size} bytes, not {shard['bytes']}"
                raise UserError(f"{path} {problem}: delete {folder} and tokenise again.")
        self._shards = [np.memmap(path, dtype=dtype, mode="r") for path in self._hashes]

    def __reduce__(self):
        return TokenStore, (self.folder, self.split)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """(length,) int64 copy of a document's ids, beginning at `start`.

        Raises:
            UserError: there is no such document, or it does not hold all of these tokens.
        """
        if not 0 <= document < len(self):
            raise UserError(f"document={document} is not in {self.folder}: {self.split} holds {len(self)} documents.")
        if start < 0 or length < 0 or start + length > self.lengths[document]:
            there = f"document {document}, {self.names[document]}: it has {self.lengths[document]:,} tokens"
            raise UserError(f"start={start}, length={length} is outside {there}.")
        first = self._start[document] + start
        return self._shards[self._shard[document]][first : first + length].astype(np.int64)

    def verify(self) -> None:
        """Read everything and compare it with the hashes of the manifest.

        Raises:
            UserError: a file has changed.
        """
        for path, expected in self._hashes.items():
            if _sha256(path) != expected:
                raise UserError(
                    f"{path} is damaged: its checksum does not match; delete {self.folder}, tokenise again."
                )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hex, of everything that decides how a tokenizer cuts text."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return _digest(tokenizer.get_vocab())
    # Truncation and padding of the last call are not part of the tokenizer's identity.
    return _digest(json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None})


def check_tokenizer(store: TokenStore, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer other than the store's.

    Raises:
        UserError: it is a different one; names the store's folder.
    """
    if store.tokenizer_fingerprint != tokenizer_fingerprint(tokenizer):
        raise UserError(
            f"{store.folder} was tokenised with another tokenizer: use that one, or tokenise again elsewhere."
        )


class _Writer:
    """Writes the documents of one split into files of at most `shard_tokens` tokens; a longer document has its own file."""

    def __init__(self, folder: Path, dtype: str, shard_tokens: int):
        self.folder, self.dtype, self.shard_tokens = folder, np.dtype(dtype).newbyteorder("<"), shard_tokens
        self.columns: dict[str, list] = {n: [] for n in ("name", "source", "tokens", "bytes", "shard", "start")}
        self.shards: list[dict] = []
        self.digest, self.written, self.duplicates = hashlib.sha256(), 0, 0
        folder.mkdir()

    def add(self, ids: np.ndarray, **described: str | int) -> None:
        if not self.shards or self.written + len(ids) > self.shard_tokens:
            self.shards.append({"file": SHARD.format(len(self.shards)), "bytes": 0})
            self.digest, self.written = hashlib.sha256(), 0
        shard, data = self.shards[-1], ids.astype(self.dtype).tobytes()
        with (self.folder / shard["file"]).open("ab") as file:
            file.write(data)
        self.digest.update(data)
        shard |= {"bytes": shard["bytes"] + len(data), "sha256": self.digest.hexdigest()}
        described |= {"tokens": len(ids), "shard": len(self.shards) - 1, "start": self.written}
        for name, column in self.columns.items():
            column.append(described[name])
        self.written += len(ids)

    def finish(self) -> dict:
        """This split's part of the manifest."""
        totals = {n: sum(self.columns[n]) for n in ("tokens", "bytes")}
        totals |= {"documents": len(self.columns["name"]), "duplicates": self.duplicates}
        return {"totals": totals, "shards": self.shards, "documents": self.columns}


def _read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} has no manifest.json: name a folder that `sharedllm tokenize` made, or a new one.")
    damaged = UserError(f"{path} is damaged: delete {folder} and tokenise again.")
    try:
        manifest = json.loads(path.read_bytes())
        version, checksum = manifest["format_version"], manifest.pop("checksum", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if version != VERSION:
        raise UserError(f"{path} has format_version={version!r}, this package reads {VERSION}: upgrade sharedllm.")
    if checksum != _digest(manifest):
        raise damaged
    return manifest


def _keep(folder: Path, header: dict) -> dict:
    """The manifest of an existing folder if it matches `header`."""
    manifest = _read_manifest(folder)
    there, here = ([_identity(s) for s in m["sources"]] for m in (manifest, header))
    settings = {name: (manifest[name], value) for name, value in header.items() if name != "sources"}
    different = [f"{name} ({old!r} there, {new!r} here)" for name, (old, new) in settings.items() if old != new]
    if there != here:
        names = list(dict.fromkeys(s[0] for s in there + here if (s in there) != (s in here))) or [
            "their order or number"
        ]
        different.append(f"sources ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})")
    if different:
        raise UserError(
            f"{folder} holds tokens that differ in {', '.join(different)}: choose another folder or delete it."
        )
    for split in manifest["splits"]:
        TokenStore(folder, split)
    return manifest


def _describe(source: str) -> dict:
    if source.startswith(HUB):
        return dict(zip(("hub", "configuration", "split"), parse_hub(source), strict=True))
    return {"file": source, "bytes": Path(source).stat().st_size, "sha256": _sha256(Path(source))}


def _identity(source: dict) -> tuple:
    return tuple(Path(value).name if key == "file" else value for key, value in source.items())


def _totals(manifest: dict) -> dict[str, dict[str, int]]:
    return {name: split["totals"] for name, split in manifest["splits"].items()}


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
