"""Selecting the part of a memory that a question needs: scores of its tokens, and the cut within a budget."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ..context.budget import kept_within
from ..context.chunking import check_ids
from ..context.paths import kept_by_paths
from ..memory.context_memory import ContextMemory
from ..memory.segments import Source, roots, segments_of, take
from ..model.backbone import SharedLLMModel
from ..model.settings import check_strides
from ..utils.errors import UserError
from . import DEFAULT_SCORE
from .base import TokenScore, get_score


def select(
    model: SharedLLMModel,
    source: Source,
    query_ids: Int[Tensor, "B Q"],
    query_attention_mask: Shaped[Tensor, "B Q"] | None = None,
    *,
    query_words: Bool[Tensor, "B Q"] | None = None,
    budget: int | None,
    score: str | TokenScore | Float[Tensor, "B Z"] = DEFAULT_SCORE,
    strides: Sequence[int] | None = None,
    gist: float = 0.5,
) -> ContextMemory:
    """Select the tokens that a question needs, within a budget (see `context.budget`).

    Args:
        source: a memory of `read(…, keep_all=True)`, a `MemoryStore`, or several of them, which are concatenated. They
            are not changed, so they can be asked again.
        query_ids: (B, Q) the question. query_attention_mask: (B, Q), padding on the left.
        query_words: (B, Q) bool, True for the question's own words, False for the form that all questions share (see
            `prompts.own_words`); lexical scores use these alone. Default: all True.
        budget: most tokens to keep of each text; None for the paper's cut, one path of each tree (`context.paths`).
        score: the score that ranks tokens, its name, or the result of `scores`.
        strides: strides of whole chunks, halves, quarters, …; default: the configuration's, and within a budget 1.
        gist: see `context.budget.kept_within`.

    Raises:
        UserError: a memory does not hold every token or is another model's, there is no such score, or the budget
            is less than any part of a text takes.
    """
    if strides is not None:
        check_strides(strides)
    strides = list(strides or (model.config.strides if budget is None else [*model.config.strides, 1]))
    ranked = (
        score
        if isinstance(score, Tensor)
        else scores(model, source, query_ids, query_attention_mask, query_words=query_words, score=score)
    )
    segments = segments_of(source)
    places = max(segment.end for segment in segments)
    if ranked.shape != (len(segments[0].lengths), places) or ranked.isnan().any():
        raise UserError(
            f"score has shape {tuple(ranked.shape)}: give a number, not NaN, for each of {places} places of "
            f"{len(segments[0].lengths)} texts, as scores() does."
        )
    trees = [roots(segments, row) for row in range(len(ranked))]
    if budget is None:
        kept = [kept_by_paths(s, t, strides, model.config.keep) for s, t in zip(ranked, trees, strict=True)]
    else:
        kept = [kept_within(s, t, strides, budget, gist, model.config.keep) for s, t in zip(ranked, trees, strict=True)]
    return take(segments, [slots for slots, _ in kept], [strides for _, strides in kept])


@torch.no_grad()
def scores(
    model: SharedLLMModel,
    source: Source,
    query_ids: Int[Tensor, "B Q"],
    query_attention_mask: Shaped[Tensor, "B Q"] | None = None,
    *,
    query_words: Bool[Tensor, "B Q"] | None = None,
    score: str | TokenScore = DEFAULT_SCORE,
) -> Float[Tensor, "B Z"]:
    """(B, Z) how much the token at each slot (see `memory.segments`) matters to a question; otherwise as `select`."""
    segments = segments_of(source)
    model.check_fingerprint(segments[0].fingerprint)
    mask = check_ids("query_ids", query_ids, query_attention_mask, model.upper.config.vocab_size)
    texts = len(segments[0].lengths)
    if len(query_ids) != texts or not mask.any(1).all():
        raise UserError(f"query_ids must be {texts} questions, one per text, of at least one token each.")
    if query_words is not None and query_words.shape != query_ids.shape:
        raise UserError(f"query_words has shape {tuple(query_words.shape)}, query_ids {tuple(query_ids.shape)}.")
    return get_score(score, model.config).scores(model, segments, query_ids, mask, query_words)
