"""Text to token ids and back."""

import itertools
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .control_tokens import encode_data
from .text_files import pieces_of

# A piece is decoded together with this many tokens before it, so that it reads as in the whole text.
BEFORE = 16
# A character has up to 4 bytes, each of which may be a token.
_LATER_BYTES = 3
# Bytes that go on with a character, as vocabularies of bytes write them: 0xA1 as "¡", 0x80 as "Ģ", or "<0x80>".
_GOES_ON = re.compile("[¡-¬®-¿Ģ-Ń]|<0x[89AB].>")


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Ids (1, T) of a text of any length, without special tokens."""
    return torch.cat([tokenize_piece(tokenizer, piece)[0] for piece in pieces_of(text) or [""]])[None]


def tokenize_piece(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[Tensor, Tensor]:
    """Ids (n,) of a text, without special tokens, and the number of characters (n,) that each adds. The numbers are
    exact for fast tokenizers; for others each token counts its own length and the last one the remainder. Text that
    looks like a control token is encoded as characters."""
    ids: list[int] = []
    found: list[int] = []
    for start, encoded in encode_data(tokenizer, text):
        ids += encoded.input_ids
        if tokenizer.is_fast:
            found += [start + end for _, end in encoded.offset_mapping]
        else:
            lengths = (len(tokenizer.decode(i)) for i in encoded.input_ids)
            found += [min(start + end, len(text)) for end in itertools.accumulate(lengths)]
    ends = torch.tensor(found, dtype=torch.long)
    if len(ends):
        ends = ends.cummax(0).values
        ends[-1] = len(text)
    return torch.tensor(ids, dtype=torch.long), ends.diff(prepend=ends.new_zeros(1))


def tokenized(tokenizer: PreTrainedTokenizerBase, pieces: Iterable[str]) -> Iterator[tuple[str, Tensor, Tensor, bool]]:
    """Each piece of a text with its ids and how many characters each adds, and whether it is the last one.

    A thread tokenises the next piece meanwhile. Raises what `pieces` raises.
    """
    source = iter(pieces)

    def following() -> Future:
        done: Future = Future()

        def work() -> None:
            try:
                piece = next(source, None)
                done.set_result(piece if piece is None else (piece, *tokenize_piece(tokenizer, piece)))
            except BaseException as error:
                done.set_exception(error)

        # A daemon thread, because it may be waiting for a pipe when the program ends. One thread per piece, so that
        # none is left when the caller stops early.
        threading.Thread(target=work, daemon=True).start()
        return done

    piece, coming = following().result(), following()
    while piece is not None:
        after = coming.result()
        coming = following()
        yield *piece, after is None
        piece = after


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int], skip_special_tokens: bool = False) -> str:
    """The text of one row of ids; transformers' `decode` may give a list of texts."""
    return str(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def decode_pieces(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], cuts: list[int], behind: bool = False
) -> list[str]:
    """The texts between successive cuts; joined they are the text of all ids.

    A character whose bytes are spread over tokens on both sides of a cut goes to the piece that ends it.

    Args:
        cuts: ascending indices into `ids`, starting with 0.
        behind: the ids follow other text; the rest of a character that began there is left out.
    """
    # Incomplete characters are decoded as U+FFFD, which a text may also hold itself.
    pieces, rest = [], _later_bytes(tokenizer, ids) if behind else 0
    for start, end in itertools.pairwise(cuts):
        first = max(start - BEFORE, 0)
        text = _up_to(tokenizer, ids, first, end)[len(_up_to(tokenizer, ids, first, start)) :]
        left_out = min(rest, len(text) - len(text.lstrip("\ufffd")))
        pieces.append(text[left_out:])
        rest = 0 if pieces[-1] else rest - left_out
    return pieces


def _up_to(tokenizer: PreTrainedTokenizerBase, ids: list[int], first: int, end: int) -> str:
    """The text of ids first … end − 1, without a character that ends later: with more ids it is another one."""
    text = decode(tokenizer, ids[first:end])
    whole = text.rstrip("\ufffd")
    if whole == text or end == len(ids):
        return text
    more = decode(tokenizer, ids[first : end + _LATER_BYTES])[len(whole) :]
    return text[: len(whole) + len(more) - len(more.lstrip("\ufffd"))]


def _later_bytes(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> int:
    """How many bytes at the start of ids go on with a character that began before them."""
    written, count, at = "".join(tokenizer.convert_ids_to_tokens(ids[:_LATER_BYTES])), 0, 0
    while count < _LATER_BYTES and (found := _GOES_ON.match(written, at)):
        count, at = count + 1, found.end()
    return count
