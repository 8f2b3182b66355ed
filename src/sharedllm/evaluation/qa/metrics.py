"""Scores of one reply, between 0 and 1, for the best matching right answer unless all of them are required.

Words are compared as in SQuAD's script: ignoring case, punctuation and articles.
"""

import difflib
import re
import string
from collections.abc import Callable, Sequence

from ..official.metrics import qa_f1
from ..official.rouge import rouge_lsum


def plain(text: str) -> str:
    """Lower case, without punctuation, articles and repeated spaces."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def hit(reply: str, answers: Sequence[str]) -> float:
    """Whether an answer occurs in the reply (best_subspan_em of Liu et al., arXiv 2307.03172)."""
    said = plain(reply)
    return float(any(plain(answer) in said for answer in answers if plain(answer)))


def exact(reply: str, answers: Sequence[str]) -> float:
    """Whether the reply is an answer."""
    return float(plain(reply) in {plain(answer) for answer in answers})


def f1(reply: str, answers: Sequence[str]) -> float:
    """F1 of the words."""
    return max((qa_f1(reply, answer) for answer in answers), default=0.0)


def rouge_l(reply: str, answers: Sequence[str]) -> float:
    """F of the longest common subsequence of words: rougeL of `rouge_score`, without stemming."""
    return max((rouge_lsum(" ".join(reply.split()), " ".join(a.split())) for a in answers), default=0.0)


def number(reply: str, answers: Sequence[str]) -> float:
    """Whether the first number is the answer; if the answer is a word, whether it occurs in the reply."""
    if not any(answer.isdigit() for answer in answers):
        return hit(reply, answers)
    found = re.search(r"\d+", reply)
    return float(found is not None and found[0] in answers)


def named(reply: str, answers: Sequence[str]) -> float:
    """Share of the answers that occur in the reply, if all of them are required."""
    return sum(hit(reply, [answer]) for answer in answers) / len(answers)


def all_named(reply: str, answers: Sequence[str]) -> float:
    """Whether all answers occur in the reply."""
    return float(named(reply, answers) == 1)


def code_line(reply: str) -> str:
    """The first line of code in a reply, without code fences."""
    lines = (line.strip() for line in reply.split("\n"))
    return next((line for line in lines if line and not line.startswith("```")), "")


def line(reply: str, answers: Sequence[str]) -> float:
    """Whether the first line of code is right, ignoring spaces around it."""
    return float(code_line(reply) in {answer.strip() for answer in answers})


def edit(reply: str, answers: Sequence[str]) -> float:
    """Similarity of the first line of code (2 M / T of difflib)."""
    ours = code_line(reply)
    return max((difflib.SequenceMatcher(None, ours, a.strip(), False).ratio() for a in answers), default=0.0)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "hit": hit,
    "em": exact,
    "f1": f1,
    "rouge_l": rouge_l,
    "number": number,
    "named": named,
    "all_named": all_named,
    "line": line,
    "edit": edit,
}


def scores(reply: str, answers: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Scores of one reply, by name."""
    return {name: METRICS[name](reply, answers) for name in names}
