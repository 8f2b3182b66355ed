"""How a piece begins: as a text does, without the space before its first word.

Tokens of most vocabularies have the space before a word in them. A piece from the middle of a line would begin with one, where a
text that is shown to a model begins with the word; a small model then copies a UUID wrongly (docs/real/choices.md).
"""

import functools
import re

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError, shown

_PAIR = re.compile(r"\d{1,9}:\d{1,9}", re.ASCII)


def without_space(tokenizer: PreTrainedTokenizerBase, size: int) -> str:
    """The pairs "ID:ID …" of those of tokens 0 … size − 1 that begin with a space, and of the token of the same text without it.
    Words that are several tokens without their space are left out. One text for all of them, which is read at once: a vocabulary
    has some 10,000."""
    texts = dict(enumerate(tokenizer.batch_decode([[i] for i in range(size)])))
    spaced = {i: text[1:] for i, text in texts.items() if text.startswith(" ") and text.strip()}
    if not spaced:
        return ""
    bare = tokenizer(list(spaced.values()), add_special_tokens=False)["input_ids"]
    pairs = ((i, ids[0]) for i, ids in zip(spaced, bare, strict=True) if len(ids) == 1)
    return " ".join(f"{i}:{one}" for i, one in pairs if one != i and texts.get(one) == spaced[i])


@functools.lru_cache(maxsize=8)
def beginnings(bare: str, size: int) -> Int[np.ndarray, " V"]:
    """For each token of a vocabulary the one with which a piece begins in its place. bare: as from `without_space`.

    Raises:
        UserError: it has no pairs of tokens of this vocabulary.
    """
    begun = np.arange(size)
    seen = set()
    for pair in bare.split(" ") if bare else []:
        if not _PAIR.fullmatch(pair) or max(ids := [int(one) for one in pair.split(":")]) >= size or ids[0] in seen:
            raise UserError(
                f'bare has {shown(pair)}: each pair "ID:ID" must be two tokens of the base\'s vocabulary of {size}, the first one in no '
                "other pair. Leave it out, or extend the base again."
            )
        seen.add(ids[0])
        begun[ids[0]] = ids[1]
    return begun
