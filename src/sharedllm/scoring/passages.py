"""Selecting the pieces of a text that a question needs, within a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..context.pieces import Pieces, check_budget, choose_pieces
from ..memory.context_memory import ContextMemory
from ..memory.segments import Segment, take
from ..model.backbone import SharedLLMModel
from ..utils.errors import UserError
from ..utils.text import decode
from .base import extent
from .defaults import default_score
from .meaning import Compared
from .rankings import rank_pieces
from .text_index import index_of


@dataclass(frozen=True)
class Needed:
    """The pieces of a text that a question needs.

    pieces    n of them, in the text's order
    scores    (n,) how much each matters
    found, compared  as in `Ranked`
    """

    pieces: Pieces
    scores: Float[Tensor, " n"]
    found: bool | None
    compared: Compared


@dataclass(frozen=True)
class Selected:
    """The part of a text that is read for a question.

    memory    the chosen tokens, in the text's order
    scores    (1, T) the score of the kept piece at each slot, −∞ elsewhere
    found, compared  as in `Ranked`
    """

    memory: ContextMemory
    scores: Tensor
    found: bool | None
    compared: Compared


def needed_pieces(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    budget: int,
    score: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Needed:
    """The pieces of a text that a question needs, within a budget. Arguments and errors are those of `select_pieces`."""
    if len(segments[0].lengths) != 1:
        raise UserError(f"the memory holds {len(segments[0].lengths)} texts: select from one of them.")
    model.check_fingerprint(segments[0].fingerprint)
    score = score or default_score(model.config)
    index = index_of(segments, tokenizer, model.config.window, model.config.marks)
    check_budget(budget, index.pieces)  # before much is compared
    question = _said(tokenizer, question_ids[0].tolist(), own[0].tolist())
    ranked = rank_pieces(model, segments, index, question, question_ids, own, score, progress)
    scores = ranked.scores if ranked.kept is None else ranked.scores.masked_fill(~ranked.kept, -torch.inf)
    chosen = choose_pieces(scores, index.pieces, budget)
    return Needed(index.pieces[chosen], scores[chosen].float(), ranked.found, ranked.compared)


def select_pieces(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    budget: int,
    score: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Selected:
    """The memory of the pieces of a text that a question needs, within a budget.

    Args:
        question_ids: (1, Q), as it follows the prefix. own: (1, Q) bool, the question's own tokens.
        budget: most tokens; fewer are chosen if few pieces match the question well. score, progress: see `rank_pieces`.

    Raises:
        UserError: the memory is another model's or has several texts; a piece is longer than the budget; no such ranking.
    """
    needed = needed_pieces(model, segments, tokenizer, question_ids, own, budget, score, progress)
    slots = needed.pieces.slots()
    scores = torch.full((1, extent(segments)), -torch.inf)
    scores[0, slots] = torch.repeat_interleave(needed.scores, needed.pieces.lengths)
    return Selected(take(segments, [slots], [torch.ones_like(slots)]), scores, needed.found, needed.compared)


def _said(tokenizer: PreTrainedTokenizerBase, ids: list[int], own: list[bool]) -> str:
    """A question's text: its own tokens, and a question mark after them, which prompts with a placeholder question have too."""
    said = decode(tokenizer, [token for token, mine in zip(ids, own, strict=True) if mine]).strip()
    after = len(own) - own[::-1].index(True) if any(own) else len(own)
    marked = after < len(ids) and decode(tokenizer, ids[after : after + 1]).startswith("?")
    return said + "?" * marked
