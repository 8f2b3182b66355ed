"""The index of a corpus: names and sizes of its documents, their words, and the summary of their keys, in one object.

A run ends with it: it joins the indices of all shards in the order of the source. Until `corpus.json` names the new one, a
corpus is what it was before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from .manifest import Object, Part
from .objects import Lost, Place
from .summary import KeySummary
from .terms import Terms


@dataclass(frozen=True)
class Index:
    """Of n documents in s shards:

    names   of documents. titles: "" where there is none. shards: names of the shards
    owner   (n,) the shard of each document. tokens, characters: (n,) of each
    """

    names: list[str]
    titles: list[str]
    shards: list[str]
    owner: Tensor
    tokens: Tensor
    characters: Tensor
    words: Terms
    keys: KeySummary | None

    def __len__(self) -> int:
        return len(self.names)


def write_index(place: Place, parts: Sequence[Part]) -> Object | None:
    """Join the indices of shards and put the result; None if no document could be read.

    Raises:
        UserError: the index of a shard is missing or damaged.
    """
    parts = [part for part in parts if part.documents]
    if not parts:
        return None
    words, keys = [], []
    for part in parts:
        assert part.index is not None
        tensors = loaded(place, part.index)
        words.append(Terms.from_tensors(tensors))
        keys.append(KeySummary.from_tensors(tensors))
    documents = [document for part in parts for document in part.documents]
    counts = [len(part.documents) for part in parts]
    lists = {
        "names": [d.name for d in documents],
        "titles": [d.origin.title if d.origin is not None else "" for d in documents],
        "shards": [part.shard for part in parts],
    }
    tensors = {
        "lists": torch.frombuffer(bytearray(json.dumps(lists).encode()), dtype=torch.uint8),
        "owner": torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts)),
        "tokens": torch.tensor([d.tokens for d in documents]),
        "characters": torch.tensor([d.characters for d in documents]),
    }
    tensors |= Terms.joined(words).tensors()
    if whole := [summary for summary in keys if summary is not None]:
        tensors |= KeySummary.joined(whole, counts).tensors()
    content = save(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    made = Object(f"index/{sha256[:32]}.index", len(content), sha256)
    place.write(made.name, content)
    return made


def read_index(place: Place, index: Object) -> Index:
    """
    Raises:
        UserError: it is missing or damaged.
    """
    tensors = loaded(place, index)
    lists = json.loads(tensors["lists"].numpy().tobytes())
    return Index(
        lists["names"],
        lists["titles"],
        lists["shards"],
        tensors["owner"],
        tensors["tokens"],
        tensors["characters"],
        Terms.from_tensors(tensors),
        KeySummary.from_tensors(tensors),
    )


def loaded(place: Place, which: Object) -> dict[str, Tensor]:
    """The tensors of an index, of a corpus or of a shard.

    Raises:
        UserError: it is missing or damaged.
    """
    raw = place.read(which.name)
    if raw is None:
        raise Lost.missing(f"{place.uri}/{which.name}")
    if hashlib.sha256(raw).hexdigest() != which.sha256:
        raise Lost.damaged(f"{place.uri}/{which.name}", "its checksum does not match")
    return load(raw)


def best(scores: Tensor, tokens: Tensor, most: int, room: int) -> list[int]:
    """The best documents, at most so many and with so many tokens together, but at least one; ascending.

    Args:
        scores: (n,). tokens: (n,). most: documents. room: tokens.
    """
    order = torch.argsort(scores, descending=True, stable=True)[:most]
    fits = np.cumsum(tokens[order].numpy()) <= room
    fits[:1] = True
    return sorted(order[torch.from_numpy(fits)].tolist())
