"""Small stores of texts of letters, one token each."""

import random
from collections.abc import Iterable

import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.store import MemoryStore
from sharedllm.store.writer import writing

TOKENIZER = byte_tokenizer()


def model_of(**settings):
    base = tiny_base("llama", vocab_size=256)
    return tiny_shared("llama", base=base, **{"injection": "joint", "encoding": "chunk", "overlap": 8} | settings)


def words(length: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("abcdefgh  \n") for _ in range(length))


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([TOKENIZER(text).input_ids])


def build(folder, model, texts: dict[str, str], *, piece: int = 1000, **settings) -> MemoryStore:
    with writing(folder) as writer:
        writer.begin(model, "tok", **settings)
        for name, text in texts.items():
            writer.read(model, TOKENIZER, name, (text[i : i + piece] for i in range(0, len(text), piece)))
        if not texts:
            writer.commit()
    return MemoryStore.open(folder, fingerprint=model.fingerprint(), tokenizer="tok")


def build_on(folder, model, texts: dict[str, Iterable[str]], begin: bool = False) -> None:
    with writing(folder) as writer:
        if begin:
            writer.begin(model, "tok")
        for name, pieces in texts.items():
            writer.read(model, TOKENIZER, name, pieces)
