"""Documents for test texts: token stores, or files that are tokenised on the fly."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.shards import TokenStore, check_tokenizer, is_token_folder, read_manifest
from ..data.sources import documents
from ..utils.errors import UserError
from ..utils.text import tokenize


@dataclass(frozen=True)
class Documents:
    """Texts of one domain.

    domain   their name in tables     names, lengths   of each document
    digest   SHA-256 of their content, in hex          source   a store, or ids of each document
    """

    domain: str
    names: list[str]
    lengths: list[int]
    digest: str
    source: TokenStore | list[np.ndarray]

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """(length,) int64 token ids."""
        if isinstance(self.source, TokenStore):
            return self.source.read(document, start, length)
        return self.source[document][start : start + length]

    def long_enough(self, tokens: int) -> tuple[list[int], list[str]]:
        """Documents of at least so many tokens, and the names of the others.

        Raises:
            UserError: no document is long enough.
        """
        chosen = [i for i, n in enumerate(self.lengths) if n >= tokens]
        if not chosen:
            longest = int(np.argmax(self.lengths))
            raise UserError(
                f"{self.domain}: no document has {tokens:,} tokens; the longest, {self.names[longest]}, has "
                f"{self.lengths[longest]:,}: ask for shorter lengths, or give longer documents."
            )
        return chosen, [name for name, n in zip(self.names, self.lengths, strict=True) if n < tokens]


def open_documents(specification: str, tokenizer: PreTrainedTokenizerBase) -> Documents:
    """Open `[DOMAIN=]PATH`: a folder of `sharedllm tokenize`, or anything that `sharedllm.data.sources` reads: files,
    folders, globs. A path that is there names no domain, whatever its name holds.

    Raises:
        UserError: the path is missing or damaged, or the tokens are another tokenizer's.
    """
    domain, sign, path = specification.partition("=")
    if not sign or "/" in domain or Path(specification).exists():
        domain, path = "", specification
    domain = domain or Path(path).stem
    if is_token_folder(Path(path)):
        splits = read_manifest(Path(path))["splits"]
        store = TokenStore(path, "validation" if "validation" in splits else "train")
        check_tokenizer(store, tokenizer)
        shards = [shard["sha256"] for shard in store.manifest["splits"][store.split]["shards"]]
        digest = hashlib.sha256(" ".join(shards).encode()).hexdigest()
        return Documents(domain, store.names, store.lengths.tolist(), digest, store)
    found = list(documents([path]))
    ids = [tokenize(tokenizer, document.text)[0].numpy() for document in found]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part.tobytes()).digest() for part in ids)).hexdigest()
    return Documents(domain, [document.name for document in found], [len(part) for part in ids], digest, ids)
