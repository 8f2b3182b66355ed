"""Tokenised text on disk: a folder with a manifest, and flat files of token ids for each split.

    folder/manifest.json             settings, SHA-256 of sources and tokenizer, documents and files of each split
    folder/train/tokens-00000.bin    ids, little-endian uint16 or uint32, one document after the other
    folder/validation/…              if a validation share was given

The folder appears under its name when it is complete, never before.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..utils.errors import UserError

VERSION = 1
SHARD = "tokens-{:05d}.bin"


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
        self.manifest = read_manifest(self.folder)
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
            if sha256_of(path) != expected:
                raise UserError(
                    f"{path} is damaged: its checksum does not match; delete {self.folder}, tokenise again."
                )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hex, of everything that decides how a tokenizer cuts text."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return digest_of(tokenizer.get_vocab())
    # Truncation and padding of the last call are not part of the tokenizer's identity.
    return digest_of(json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None})


def check_tokenizer(store: TokenStore, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer other than the store's.

    Raises:
        UserError: it is a different one; names the store's folder.
    """
    if store.tokenizer_fingerprint != tokenizer_fingerprint(tokenizer):
        raise UserError(
            f"{store.folder} was tokenised with another tokenizer: use that one, or tokenise again elsewhere."
        )


def is_token_folder(folder: Path) -> bool:
    """Whether a folder holds tokens, if only damaged ones: files named manifest.json are in other folders, too."""
    try:
        return "splits" in json.loads((folder / "manifest.json").read_bytes())
    except OSError:
        return False
    except (ValueError, TypeError, RecursionError):
        return any((folder / split).is_dir() for split in ("train", "validation"))


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder of tokens.

    Raises:
        UserError: it is missing, damaged or of another version.
    """
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
    if checksum != digest_of(manifest):
        raise damaged
    return manifest


def digest_of(values: dict) -> str:
    """SHA-256, in hex, of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256, in hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
