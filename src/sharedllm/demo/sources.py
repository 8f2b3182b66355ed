"""Real text on every machine: the source files of Python's standard library."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..utils.text import tokenize


def library_files() -> list[Path]:
    """Python files of the standard library in a fixed order, without tests and generated tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idlelib", "lib2to3", "site-packages", "pydoc_data", "encodings", "__pycache__"}
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = set(inner) - skipped  # packages that are installed there have many thousands of files
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def _documents(files: list[Path]) -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a few source files deliberately use other encodings
        if text.strip():
            yield f"# file: {file.relative_to(root)}\n{text}\n"


def library_source(characters: int) -> str:
    """The beginning of these files as one text, of at least so many characters if there are so many."""
    parts, size = [], 0
    for document in _documents(library_files()):
        parts.append(document)
        size += len(document)
        if size >= characters:
            break
    return "".join(parts)


def library_text(tokenizer: PreTrainedTokenizerBase, tokens: int, *, other: bool = False) -> Tensor:
    """At least `tokens` ids (1, T), if there are so many; `other` takes files in reverse from the end of the list.

    The two texts are disjoint as long as each takes less than half of the library.
    """
    files = library_files()
    half = len(files) // 2
    parts, total = [], 0
    for document in _documents(files[half:][::-1] if other else files[:half]):
        parts.append(tokenize(tokenizer, document))
        total += parts[-1].shape[1]
        if total >= tokens:
            break
    return torch.cat(parts, 1)
