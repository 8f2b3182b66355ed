"""Tokenises documents into a folder that `shards` reads."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError, first_of, no_room
from ..utils.scratch import whole_folder
from ..utils.text import tokenize
from ..utils.text_files import some
from .shards import SHARD, VERSION, TokenStore, digest_of, read_manifest, sha256_of, tokenizer_fingerprint
from .sources import HUB, documents, parse_hub, resolve


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
    try:
        with whole_folder(folder) as temporary:
            writers = _written(temporary, files, header, tokenizer, progress)
            manifest = header | {"splits": {name: writer.finish() for name, writer in writers.items()}}
            manifest["checksum"] = digest_of(manifest)
            (temporary / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    except OSError as error:
        said = f"{folder} can't be made ({error.strerror or error}); nothing of it is left."
        raise OSError(no_room(folder, error) or said) from error
    return ShardSummary(_totals(manifest), reused=False)


def _written(
    folder: Path,
    files: list[str],
    header: dict,
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int], None] | None,
) -> dict[str, "_Writer"]:
    """Tokenise the documents of files into a folder, each text once; the writer of each split by its name."""
    validation, seed = header["validation"], header["seed"]
    names = ("train", "validation") if validation else ("train",)
    writers = {name: _Writer(folder / name, header["dtype"], header["shard_tokens"]) for name in names}
    seen: set[bytes] = set()
    for document in documents(files, text_field=header["text_field"]):
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
        assert ids.max() < header["vocab_size"], f"the ids of {document.name} exceed {header['vocab_size']}"
        writer.add(ids, name=document.name, source=document.source, bytes=len(raw))
        if progress is not None:
            progress(len(ids))
    if empty := [name for name, writer in writers.items() if not writer.shards]:
        equal = sum(writer.duplicates for writer in writers.values())
        kind, apart = ("different document", f" (others are equal to them: {equal})") if equal else ("document", "")
        none = f"a validation share of {validation} leaves none of {some(len(seen), kind)}{apart} for {empty[0]}"
        raise UserError(f"{none}: give more {kind}s, or name separate sources for validation.")
    return writers


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


def _keep(folder: Path, header: dict) -> dict:
    """The manifest of an existing folder if it matches `header`."""
    manifest = read_manifest(folder)
    there, here = ([_identity(s) for s in m["sources"]] for m in (manifest, header))
    settings = {name: (manifest[name], value) for name, value in header.items() if name != "sources"}
    different = [f"{name} ({old!r} there, {new!r} here)" for name, (old, new) in settings.items() if old != new]
    if there != here:
        names = list(dict.fromkeys(s[0] for s in there + here if (s in there) != (s in here))) or [
            "their order or number"
        ]
        different.append(f"sources ({first_of(names, 3)})")
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
    return {"file": source, "bytes": Path(source).stat().st_size, "sha256": sha256_of(Path(source))}


def _identity(source: dict) -> tuple:
    return tuple(Path(value).name if key == "file" else value for key, value in source.items())


def _totals(manifest: dict) -> dict[str, dict[str, int]]:
    return {name: split["totals"] for name, split in manifest["splits"].items()}
