"""Texts that quote the questions asked about them: the quotation has all words of a question, and not its answer."""

import random
import re
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate

from ..meter import Meter
from .base import PackedText, Question, Span

QUOTATION = ' "{question}" somebody once asked, and nobody knew.'
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s)")


def quote(text: PackedText, seed: int, meter: Meter) -> PackedText:
    """The same text with every question quoted once, after a random sentence that is no question's evidence.

    The text grows by the quotations; places of documents, parts and evidence are those in the new text.
    """
    rng = random.Random(f"{seed} {text.id} quoted")
    evidence = sorted({span for question in text.questions for span in question.evidence})
    borders = [m.end() for m in _SENTENCE_END.finditer(text.text)]
    free = [border for border in borders if not any(start <= border <= end for start, end in evidence)]
    free = free or [len(text.text)]
    added = sorted((rng.choice(free), QUOTATION.format(question=q.question)) for q in text.questions)
    cuts = [cut for cut, _ in added]
    sizes = [0, *accumulate(len(words) for _, words in added)]

    def moved(place: int) -> int:
        """A quotation between two parts belongs to the first one."""
        return place + sizes[bisect_right(cuts, place)]

    def span(old: Span) -> Span:
        return moved(old[0]), moved(old[1])

    pieces, last = [], 0
    for cut, words in added:
        pieces += [text.text[last:cut], words]
        last = cut
    whole = "".join([*pieces, text.text[last:]])
    questions: list[Question] = [
        replace(question, evidence=tuple(span(old) for old in question.evidence)) for question in text.questions
    ]
    return replace(
        text,
        text=whole,
        documents=tuple((name, *span((start, end))) for name, start, end in text.documents),
        parts=tuple(span(part) for part in text.parts),
        questions=tuple(questions),
        tokens=len(meter.tokens(whole)[0]),
    )
