"""The pieces of a text that a question needs, for programs that read them themselves. Nothing is generated."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..context.pieces import Pieces, choose_pieces
from ..memory.context_memory import ContextMemory
from ..memory.segments import Source, segments_of, take
from ..prompts import own_words
from ..scoring.defaults import default_budget, default_score
from ..scoring.passages import needed_pieces
from ..scoring.text_index import index_of
from ..utils.errors import UserError, at_least_one
from .ask import after_prefix, token_scores
from .asked import check_model, searched_for
from .citations import Citation, describe, documents
from .nearest import narrowed


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    text        its words
    score       how much it matters to the question; only comparisons for one question count
    document    the document's name
    place       where in the document, in words: "page 12", "lines 3–9"; "" if it is not known
    characters  first character of the document, and the one after the last
    tokens      the same in tokens
    """

    text: str
    score: float
    document: str
    place: str
    characters: tuple[int, int]
    tokens: tuple[int, int]


@torch.no_grad()
def retrieve(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    everything: Source,
    question: str,
    *,
    budget: int | None = None,
    score: str | None = None,
    most: int | None = None,
) -> list[Passage]:
    """The pieces of a text that a question needs, best first. Each ends with a sentence if there is one in time.

    Args:
        everything: one text of which every token was kept, or several, which are concatenated; in RAM or on disk.
        budget: most tokens of all pieces together; default: `default_budget`.
        score: how pieces are ranked, as in `ask`; default: `default_score`. A score of tokens ranks a piece by its best one.
        most: most pieces; default: as many as the budget holds.

    Raises:
        UserError: an empty or too long question, a budget that is less than a piece, no such score, several texts, or a memory
            that is another model's or does not hold every token.
    """
    check_model(model, tokenizer)
    prompt, form = searched_for(model, tokenizer, question)
    own = own_words(prompt, form)
    everything = narrowed(model, tokenizer, everything, prompt, own)
    segments = segments_of(everything)
    if len(segments[0].lengths) != 1:
        raise UserError(f"the memory holds {len(segments[0].lengths)} texts: retrieve from one of them.")
    model.model.check_fingerprint(segments[0].fingerprint)
    most = None if most is None else at_least_one("most", most)
    budget = at_least_one("budget", default_budget(model.config) if budget is None else budget)
    score = score or default_score(model.config)
    if model.config.injection == "deep":
        asked = after_prefix(model, prompt)
        needed = needed_pieces(model.model, segments, tokenizer, asked, own[:, -asked.shape[1] :], budget, score)
        pieces, scores = needed.pieces, needed.scores
    else:
        cut = index_of(segments, tokenizer, model.config.window, model.config.marks).pieces
        ranked = _best(token_scores(model, tokenizer, everything, prompt, own, score)[0].float().cpu(), cut)
        chosen = choose_pieces(ranked, cut, budget)
        pieces, scores = cut[chosen], ranked[chosen]
    order = torch.argsort(scores, descending=True, stable=True)[:most]
    # All tokens and documents, without keys and values.
    text = take(segments, [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)])
    return [
        _passage(tokenizer, text, int(pieces.start[i]), int(pieces.end[i]), float(scores[i])) for i in order.tolist()
    ]


def _best(scores: Float[Tensor, " Z"], pieces: Pieces) -> Float[Tensor, " n"]:
    """(n,) the best score of a token of each piece."""
    best = torch.full((len(pieces),), -torch.inf)
    owner = torch.repeat_interleave(torch.arange(len(pieces)), pieces.lengths)
    return best.scatter_reduce(0, owner, scores[pieces.slots()], "amax")


def _passage(tokenizer: PreTrainedTokenizerBase, text: ContextMemory, start: int, end: int, score: float) -> Passage:
    """Slots start … end − 1 of a text."""
    source = max((s for s in documents(text) if s["start"] <= start), key=lambda s: s["start"])
    offset = source["start"]
    found = describe(tokenizer, text, Citation(source["name"], start - offset, end - offset, score, offset))
    return Passage(
        found["text"],
        found["weight"],
        found["document"],
        found["place"],
        tuple(found["characters"]),
        tuple(found["tokens"]),
    )
