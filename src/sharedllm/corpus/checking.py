"""Reads every byte of a corpus and compares it with its checksums."""

from collections.abc import Callable, Iterator
from itertools import groupby

from ..memory.interface import Damage
from ..store import Document
from .corpus import Corpus
from .index import loaded
from .objects import Lost
from .steps import Steps


def lost(corpus: Corpus, progress: Callable[[int, int], None]) -> Iterator[str]:
    """A line for each stretch of a document that is lost, and for each index of a shard, which only the next run needs.

    Args:
        progress: called with the number of tokens read since the last call, and the total.

    Raises:
        UserError: an object can't be read, though it may be whole.
    """
    owners, tokens = corpus.index.owner.tolist(), corpus.index.tokens.tolist()
    for owner, numbers in groupby(range(len(owners)), key=owners.__getitem__):
        shard = corpus.index.shards[owner]
        for number in numbers:
            name = corpus.index.names[number]
            try:
                part = corpus.part(shard)
                yield from _blocks(Steps(corpus.place, part), corpus.document(part, name))
            except Lost as error:
                yield str(Damage(name, 0, tokens[number], str(error)))
            progress(tokens[number], corpus.tokens)
        yield from _index(corpus, shard)


def _blocks(steps: Steps, document: Document) -> Iterator[str]:
    token = 0
    for block in document.blocks:
        start, nbytes = map(int, block.file.split("+"))
        try:
            steps([(start, start + nbytes)])
        except Lost as error:
            yield str(Damage(document.name, token, token + block.tokens, str(error)))
        token += block.tokens


def _index(corpus: Corpus, shard: str) -> Iterator[str]:
    try:
        part = corpus.part(shard)
    except Lost:
        return  # its documents are named already
    try:
        assert part.index is not None
        loaded(corpus.place, part.index)
    except Lost as error:
        yield str(error)
