"""How much each piece of a text matters to a question: by its words, by shallow heads, by meaning, or by all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.config import SharedLLMConfig
from ..utils.errors import UserError
from . import SCORES
from .defaults import default_score
from .encoder import encoder_of
from .found import by_length, seems_answered, share_said
from .heads import Heads
from .links import linked
from .meaning import Compared
from .sentences import standard
from .text_index import TextIndex
from .words import names_of, words_of


@dataclass(frozen=True)
class Ranking:
    """What pieces are ranked by: the question's words, the model's selection heads, their meaning. If all count, meaning
    decides alone where the text says hardly any word of the question, and together with words where it says few. Elsewhere words and
    heads find some pieces, and the states of these that the memory keeps say how near they are in meaning.

    A model with a sentence encoder needs no heads: the encoder says how near all pieces are in meaning."""

    words: bool = False
    heads: bool = False
    meaning: bool = False


RANKINGS = {
    "bm25": Ranking(words=True),
    "attention": Ranking(heads=True),
    "meaning": Ranking(meaning=True),
    "hybrid": Ranking(words=True, heads=True, meaning=True),
}
# The weight of heads relative to words. Chosen on even ids of NQ, FairytaleQA and HotpotQA (docs/real/choices.md).
HEADS = 0.2
# Below this share of a question's words, by idf, words say hardly anything about which piece answers it.
HARDLY_ANY = 0.3
# Below this share of them words say less than meaning, and a little above it both together say most. On even
# ids nearly all questions that share no word with their fact are below `UNSAID` in texts of 32K tokens, or below `HARDLY_SAID` in
# 128K, of which some piece has more of a question's words by chance; of FairytaleQA and NQ one in ten (docs/real/choices.md).
UNSAID, HARDLY_SAID = 0.4, 0.5
# Elsewhere so many pieces, the best by words and heads, are compared by meaning in the states that the memory keeps, which costs
# nothing to speak of, and both count the same. Chosen on even ids (docs/real/choices.md).
COMPARED = 16
# The weight of a sentence encoder beside words: where these say much, little, and hardly anything. Chosen on even ids
# (docs/real/choices.md).
ENCODED, ENCODED_LITTLE, ENCODED_UNSAID = 0.5, 0.75, 1.0
# Hardly anything is less than `HARDLY_ANY` of a question in texts of up to so many pieces. With each doubling some piece has more of
# any question by chance, so it is so much more, up to `UNSAID`.
HARDLY_SHORT, HARDLY_MORE = 256, 0.05
# But where the next piece has less than this share of the best one's score, and the best one has `HARDLY_ANY` of the words or more, and
# a name or a number of the question, words decide. It guards questions about names that the text hardly repeats; on even ids it holds for none now
# (docs/real/choices.md).
NAMED = 1 / 3
# Pieces whose score is a smaller share of the best one's are left out even if they fit into the budget: they cost time,
# and confuse a small model. On even ids hardly any evidence is lost by this, and answers are as good or better with fewer tokens
# (docs/real/choose_shares.py). Where one piece has so much of a question's words, others need this share of what it has: what has less
# is about something alike.
LEAST_SHARE, WHOLE = 0.6, 0.8


@dataclass(frozen=True)
class Ranked:
    """The n pieces of a text, ranked for a question.

    scores    (n,) how much each piece matters
    found     whether one may answer the question (see `seems_answered`)
    kept      (n,) which pieces may be read; None for all
    compared  what was done to compare meanings
    """

    scores: Float[Tensor, " n"]
    found: bool | None
    kept: Bool[Tensor, " n"] | None = None
    compared: Compared = field(default_factory=Compared)


def rank_pieces(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    index: TextIndex,
    question: str,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    score: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ranked:
    """How much each piece matters to a question.

    Args:
        question: its text. question_ids: (1, Q), as it follows the prefix. own: (1, Q) bool, the question's own tokens.
        score: a name of `RANKINGS`; default: `default_score`.
        progress: called with the number of tokens, of text or question, that were read or compared since the last call.

    Raises:
        UserError: no such ranking, or the model names no heads or layers for it.
    """
    ranking, heads = check_ranking(model.config, score or default_score(model.config))
    covered, free = index.covered(question)
    words = index.words.scores(question) if ranking.words else None
    encoder = encoder_of(model) if ranking.meaning else None
    by_states = ranking.meaning and encoder is None and model.config.meaning_layers is not None
    unsaid = words is None or by_meaning(covered, free, words, index.texts, question)
    if by_states and unsaid:
        scores, compared = index.meaning(model, segments).scores(question, progress)
        if words is not None:
            if _said(covered, free) >= UNSAID:
                scores = follow(with_words(scores, words), index, question, free)
            # What quotes the question is nearest to it, and does not answer it.
            known = scores.isfinite()
            scores = scores.masked_fill(torch.from_numpy(~free) & known, float(scores[known].min()))
        return Ranked(scores, seems_answered(covered, free), compared=compared)
    by, near, compared = [] if words is None else [words], None, Compared()
    if encoder is not None:
        near, compared = index.sentences(encoder, segments, progress).scores(question)
        by = [near if words is None else with_encoded(words, near, free, encoder_weight(covered, free, unsaid))]
    elif heads:
        by.append(index.heads(model, segments).scores(question_ids, own, progress))
    scores, found = by[0] if len(by) == 1 else join(*by), seems_answered(covered, free, near)
    if words is None:
        return Ranked(scores, found, compared=compared)
    best = int(scores.masked_fill(torch.from_numpy(~free), -torch.inf).argmax())
    # In a text of fewer pieces the farthest would count for nothing, however near it is.
    if by_states and len(scores) > COMPARED and float(scores.max()) > 0:
        chosen = scores.topk(COMPARED).indices.sort().values
        if (kept_near := index.meaning(model, segments).as_kept(question, chosen)) is not None:
            scores, compared = with_meaning(scores, chosen, kept_near[0], free), kept_near[1]
    after = follow(scores, index, question, free)
    kept = kept_pieces(scores, covered, free) | (after > scores)
    kept[best] = True  # what words find first is read, whatever is nearer in the states of a few layers
    return Ranked(after, found, kept, compared)


def by_meaning(
    covered: Float[np.ndarray, " n"] | None,
    free: Bool[np.ndarray, " n"],
    words: Float[Tensor, " n"],
    texts: Sequence[str],
    question: str,
) -> bool:
    """Whether a text says so few words of a question that meaning decides, too.

    Args:
        covered, free: of `TextIndex.covered`. words: (n,) the scores by words. texts: of the n pieces.
    """
    said = _said(covered, free)
    if said >= HARDLY_SAID:
        return False
    best = int(words.masked_fill(torch.from_numpy(~free), -torch.inf).argmax())
    stands_out = said >= HARDLY_ANY and _stands_out(words[torch.from_numpy(free)])
    return not (stands_out and _has_name(texts[best], question))


def encoder_weight(covered: Float[np.ndarray, " n"] | None, free: Bool[np.ndarray, " n"], unsaid: bool) -> float:
    """How much a sentence encoder counts beside words. unsaid: the result of `by_meaning`."""
    if not unsaid:
        return ENCODED
    hardly = by_length(len(free), HARDLY_ANY, HARDLY_MORE, UNSAID, HARDLY_SHORT)
    return ENCODED_UNSAID if _said(covered, free) < hardly else ENCODED_LITTLE


def _has_name(text: str, question: str) -> bool:
    """Whether a text has a name or a number of a question, whose first word has a capital letter anyway."""
    names = {*names_of(question[:1].lower() + question[1:]), *(w for w in words_of(question) if not w.isalpha())}
    return not names.isdisjoint(words_of(text))


def _said(covered: Float[np.ndarray, " n"] | None, free: Bool[np.ndarray, " n"]) -> float:
    """How much of a question one piece contains; 1 for a question of nothing but words such as "what is it"."""
    return 1.0 if covered is None else share_said(covered, free)


def _stands_out(scores: Float[Tensor, " n"]) -> bool:
    """Whether the best of n scores is far above the next one; False for a single one."""
    best = scores.topk(min(2, len(scores))).values.tolist()
    return len(best) == 2 and best[1] < NAMED * best[0]


def with_words(meaning: Float[Tensor, " n"], words: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(n,) both scores of n pieces combined, each with mean 0 and standard deviation 1. Pieces of which the meaning is not known,
    −∞, count as the least of the others."""
    known = meaning.isfinite()
    meaning = meaning.masked_fill(~known, float(meaning[known].min()))
    return standard(meaning) + standard(words)


def follow(
    scores: Float[Tensor, " n"], index: TextIndex, question: str, free: Bool[np.ndarray, " n"]
) -> Float[Tensor, " n"]:
    """(n,) scores of n pieces, with those that the best one leads to right after it (see `linked`). free: of `TextIndex.covered`;
    only these lead and are followed."""
    known = scores.masked_fill(torch.from_numpy(~free), -torch.inf)
    best = int(known.argmax())
    if float(scores[best]) <= 0:
        return scores
    scores = scores.clone()
    for place, piece in enumerate(linked(index.words, index.texts[best], question, best).tolist(), 1):
        if free[piece]:
            scores[piece] = max(float(scores[piece]), (1 - place / 100) * float(scores[best]))
    return scores


def join(words: Float[Tensor, " n"], heads: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(n,) two scores of n pieces combined, each as a share of its maximum, with a lower weight for heads. If no word
    matches, heads alone decide."""
    shares = (each / each.max().clamp(min=1e-20) for each in (words, heads.float()))
    return torch.stack([weight * share for weight, share in zip((1.0, HEADS), shares, strict=True)]).sum(0)


def with_encoded(
    words: Float[Tensor, " n"], near: Float[Tensor, " n"], free: Bool[np.ndarray, " n"], weight: float = ENCODED
) -> Float[Tensor, " n"]:
    """(n,) the scores of n pieces by words, and how near they are to the question by a sentence encoder, each from 0 for the worst to 1 for
    the best one, in a weighted mean (Bruch et al., ACM TOIS 2023).

    Args:
        free: of `TextIndex.covered`; what quotes the question is nearest to it, and counts as the nearest of the others.
        weight: of the encoder.
    """
    others = near[torch.from_numpy(free)]
    least, most = float(near.min()), float(others.max())
    near = (near.clamp(max=most) - least) / max(most - least, 1e-20)
    words = (words - words.min()) / (words.max() - words.min()).clamp(min=1e-20)
    return (1 - weight) * words + weight * near


def with_meaning(
    scores: Float[Tensor, " n"],
    chosen: Int[Tensor, " m"],
    near: Float[Tensor, " m"],
    free: Bool[np.ndarray, " n"],
) -> Float[Tensor, " n"]:
    """(n,) scores of n pieces as shares of the greatest, and how near some are in meaning, from 0 to 1, with equal weights.

    Args:
        chosen: (m,) the pieces that were compared. near: (m,) how near these are to the question.
        free: of `TextIndex.covered`; what quotes the question is nearest to it, and counts as the nearest of the others.
    """
    others = near[torch.from_numpy(free)[chosen]]
    if not len(others):
        return scores
    least, most = float(others.min()), float(others.max())
    scores = scores / scores.max().clamp(min=1e-20)
    scores[chosen] += (near.clamp(least, most) - least) / max(most - least, 1e-20)
    return scores / 2


def kept_pieces(
    ranked: Float[Tensor, " n"], covered: Float[np.ndarray, " n"] | None, free: Bool[np.ndarray, " n"]
) -> Bool[Tensor, " n"]:
    """(n,) which pieces are read: those whose score is not much smaller than the best one's, nor, where one has nearly all of the
    question, what they have of it. If hardly any contains much of the question, every one may help.

    Args:
        covered, free: of `TextIndex.covered`; only pieces that don't quote the question are compared with.
    """
    if covered is not None and covered[free].max() < HARDLY_ANY:
        return torch.ones(len(ranked), dtype=torch.bool)
    near = ranked >= LEAST_SHARE * float(ranked[torch.from_numpy(free)].max())
    if covered is not None and covered[free].max() >= WHOLE:
        near &= torch.from_numpy(covered >= LEAST_SHARE * covered[free].max())
    return near


def check_ranking(config: SharedLLMConfig, score: str) -> tuple[Ranking, Heads]:
    """What pieces are ranked by, and the heads that count.

    Raises:
        UserError: no such ranking, or the model names no heads or layers for it.
    """
    if score not in RANKINGS:
        wrong = "does not rank pieces, which a model with injection='deep' reads" if score in SCORES else "is not known"
        raise UserError(f"score={score!r} {wrong}: use one of {', '.join(sorted(RANKINGS))}.")
    ranking, layers = RANKINGS[score], config.meaning_layers
    encoded = ranking.meaning and config.sentence_encoder is not None
    heads = (config.selection_heads or ()) if ranking.heads and not encoded else ()
    meaning = encoded or (ranking.meaning and layers is not None)
    if ranking.heads and not heads and not meaning:
        raise UserError(f"score={score!r} needs selection_heads: find them with `sharedllm extend`, or use bm25.")
    if ranking.meaning and not meaning and not heads:
        raise UserError(f"score={score!r} needs meaning_layers: find them with `sharedllm extend`, or use bm25.")
    return ranking, heads
