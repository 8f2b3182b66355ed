"""Everything shown about an answer, as plain numbers, lists and texts: the data that the page draws and `--json` prints.

Places in the text are slots (see `memory.segments`). Characters are counted over all documents, one after the other.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """Name, start and end of a document, in slots and characters."""

    name: str
    tokens: list[int]
    characters: list[int]


@dataclass(frozen=True)
class TextPiece:
    """A run of tokens in a chunk that are kept at one stride, or of which none is kept.

    tokens     slots at which it begins and ends
    stride     one of so many tokens is kept; 0: none
    attention  attention to its kept tokens, averaged over layers
    text       "" if the chunk comes without its text
    """

    tokens: list[int]
    stride: int
    kept: int
    attention: float
    text: str


@dataclass(frozen=True)
class Chunk:
    """One chunk of the text.

    document   index of the document in which it begins
    tokens, characters  its start and end
    kept       number of its kept tokens
    stride     the finest stride of its pieces; 0: nothing is kept
    score      the best score of its tokens; None if the score leaves all of them out, unread or not compared
    attention  by layer, in the order of `Facts.layers`; empty if nothing is kept
    pieces     pieces that partition it; none if nothing is kept and it comes without its text
    """

    document: int
    tokens: list[int]
    characters: list[int]
    kept: int
    stride: int
    score: float | None
    attention: list[float]
    excerpt: str
    pieces: list[TextPiece]


@dataclass(frozen=True)
class Layer:
    """Attention of one layer of the upper model, as shares of the answer tokens' attention, averaged over heads.

    memory   attention to the memory; the rest went to question and answer themselves, and to a prefix before the memory
    sources  attention to the passages read in full, a part of `memory`
    gate     factor of the cross-attention; None without a gate
    """

    layer: int
    memory: float
    sources: float
    gate: float | None


@dataclass(frozen=True)
class CitedPiece:
    """A passage that was read in full for the answer. Characters and tokens count from the beginning of its document;
    chunks are the first and last.

    place      in its document in words, such as "page 12"; "" if it is not known
    weight     the best score of a token there
    attention  attention to it, averaged over layers
    answer     whether it contains the answer, word for word
    """

    document: str
    place: str
    characters: list[int]
    tokens: list[int]
    start: int
    chunks: list[int]
    weight: float
    attention: float
    text: str
    answer: bool


@dataclass(frozen=True)
class Facts:
    """Everything about an answer; `strides` are the possible strides of pieces, coarse to fine (1 alone where pieces are
    read whole), and `found` is that of `answering.ask.Chosen`."""

    question: str
    answer: str
    found: bool | None
    model: str
    injection: str
    budget: int
    score: str
    tokens: int
    kept: int
    chunk_size: int
    strides: list[int]
    documents: list[Document]
    layers: list[Layer]
    sources: list[CitedPiece]
    chunks: list[Chunk]
