"""Small documents, and a corpus of them."""

import random
from pathlib import Path

import torch

from sharedllm.corpus.engines import OneProcess
from sharedllm.corpus.run import Report, read_corpus

WORDS = "the falcon of silver sang in a quiet harbour while old captains slept and lanterns burned".split()
NAMES = "ash birch cedar elder fir hazel juniper larch maple oak pine rowan".split()


def documents(folder: Path, count: int = 6, size: int = 20) -> Path:
    """Documents of about 100 tokens, each with a word that no other has."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        words = random.Random(number).choices(WORDS, k=size)
        words.insert(size // 2, NAMES[number % len(NAMES)])
        (folder / f"{number}.txt").write_text(" ".join(words) + ".\n")
    return folder


def run(model: str, source, uri, *, engine=None, shard_bytes: int = 300, **settings) -> Report:
    threads = torch.get_num_threads()
    try:
        options = {"batch_tokens": 256, "shard_bytes": shard_bytes} | settings
        return read_corpus([str(source)], str(uri), model, engine or OneProcess(), **options)
    finally:
        torch.set_num_threads(threads)


def objects(folder: Path) -> dict[str, bytes]:
    """All objects of a corpus in a folder. A folder whose name begins with a dot has what a killed writer had not finished."""
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}
