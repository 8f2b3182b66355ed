"""Text files to token ids: every file is read whole or refused by name."""

import glob
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# Tokens before a piece that are decoded with it, so that it reads as it does in the whole.
BEFORE = 16

# Long texts are tokenised in pieces of about this many characters, cut at line ends.
PIECE = 200_000


def expand(names: Iterable[str]) -> list[str]:
    """File names with their globs expanded, in order; "-" stands for standard input.

    Raises:
        ValueError: a glob that fits no file.
    """
    files: list[str] = []
    for name in names:
        if name == "-" or not glob.has_magic(name) or Path(name).exists():
            files.append(name)
            continue
        found = sorted(f for f in glob.glob(name, recursive=True) if Path(f).is_file())  # noqa: PTH207 (absolute too)
        if not found:
            raise ValueError(f"{name} fits no file: check the pattern.")
        files += found
    return files


def read_text(name: str) -> str:
    """The text of a file, or of standard input for "-".

    Raises:
        ValueError: missing, a folder, empty, or not UTF-8; names the file and for bad bytes their offset.
    """
    shown = "standard input" if name == "-" else name
    path = Path(name)
    if name != "-" and path.is_dir():
        raise ValueError(f"{name} is a folder: name its files, for instance {path / '**' / '*.txt'}.")
    if name != "-" and not path.exists():
        raise ValueError(f"{name} does not exist: check the name.")
    raw = sys.stdin.buffer.read() if name == "-" else path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; convert it.") from None
    if not text.strip():
        raise ValueError(f"{shown} is empty: there is nothing to read.")
    return text


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Ids (1, T) of a text of any length, without special tokens."""
    pieces, size = [[]], 0
    for line in text.splitlines(keepends=True):
        if size > PIECE:
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line)
    # Not verbose: the warning about texts longer than the model's window does not apply here.
    ids = [i for piece in pieces for i in tokenizer("".join(piece), add_special_tokens=False, verbose=False).input_ids]
    return torch.tensor([ids], dtype=torch.long)


def decode_pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int], cuts: list[int]) -> list[str]:
    """The texts between successive cuts; joined they are the text of all ids.

    A character whose bytes are spread over tokens on both sides of a cut goes to the piece that ends it.

    Args:
        cuts: ascending places in `ids`, from 0 to its length.
    """
    pieces = []
    for start, end in itertools.pairwise(cuts):
        first = max(start - BEFORE, 0)
        # Bytes that are no whole character yet are decoded as U+FFFD.
        before = tokenizer.decode(ids[first:start]).rstrip("\ufffd")
        text = tokenizer.decode(ids[first:end])
        pieces.append((text if end == len(ids) else text.rstrip("\ufffd"))[len(before) :])
    return pieces
