"""Text is data: a text that contains something like a control token is encoded as plain characters.

Control tokens mean something to the model beyond their characters: the vocabulary's special tokens, the tokens that its
chat template writes, and tokens of the form <|…|>. Other added tokens, such as runs of spaces, are ordinary text.
"""

import functools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

from .text_files import check_text, pieces_of

_MARKER = re.compile(r"<\|.+\|>")
# Texts are tokenised in threads, but a fast tokenizer stores its treatment of special tokens as mutable state.
_LOCK = threading.Lock()
_CHECK: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Control tokens of a vocabulary and their ids."""
    return _control_tokens(tokenizer, str(tokenizer.chat_template), len(tokenizer))


@functools.lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> dict[str, int]:
    """`template` and `size` are part of the cache key: they change when the tokenizer does."""
    added = {token.content: (index, token.special) for index, token in tokenizer.added_tokens_decoder.items()}
    found = {
        text: index
        for text, (index, special) in added.items()
        if special or _MARKER.fullmatch(text) or (text.strip() and text in template)
    }
    special = tokenizer.all_special_tokens
    ids = tokenizer.convert_tokens_to_ids(special)
    return found | dict(zip(special, ids if isinstance(ids, list) else [ids], strict=True))


def control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """A pattern that finds control tokens in a text, the longest one at each place."""
    return _pattern(tuple(sorted(control_tokens(tokenizer), key=len, reverse=True)))


@functools.lru_cache(maxsize=8)
def _pattern(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def encode_data(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[tuple[int, BatchEncoding]]:
    """Encode a text without producing a control token. Yields (start, encoding): usually one piece, several where a
    control token has to be cut in two.

    Raises:
        UserError: the text contains half of a character.
    """
    # With `split_special_tokens` tokenizers split special tokens themselves, but not other added tokens.
    at = 0
    for match in control_pattern(tokenizer).finditer(text):
        if match[0] not in tokenizer.all_special_tokens and not _is_special(tokenizer, match[0]):
            cut = match.start() + 1
            yield at, _encode(tokenizer, text[at:cut], split=True)
            at = cut
    yield at, _encode(tokenizer, text[at:], split=True)


def encode_form(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode text that a chat template wrote: its control tokens are intended.

    Raises:
        UserError: the text contains half of a character.
    """
    return [i for piece in pieces_of(text) for i in _encode(tokenizer, piece, split=False).input_ids]


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each piece of text that this thread tokenises; an exception from it stops the work."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def _is_special(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return tokenizer.added_tokens_decoder[control_tokens(tokenizer)[text]].special


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, split: bool) -> Any:
    check_text(text)
    if (check := _CHECK.get()) is not None:
        check()
    with _LOCK:
        # verbose=False: the warning about texts longer than the model's window does not apply here.
        return tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=split,
            verbose=False,
            return_offsets_mapping=bool(tokenizer.is_fast),
        )
