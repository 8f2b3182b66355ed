"""ROUGE-L as each benchmark computes it: LongBench with the package `rouge`, InfiniteBench with `rouge_score`.

The packages are not used: `rouge` fails on long sentences, and `rouge_score` brings nltk and absl for the few lines that it
shares with the other. A test compares the second on random texts.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np


def rouge_l(prediction: str, truth: str) -> float:
    """F of `rouge` 1.0.1 (pltrdy/rouge, summary level): over sets of words, sentences cut at full stops.

    Precision and recall are the number of different words in any longest common subsequence of two sentences, over the
    number of different words of the prediction and of the truth. The original fails on sentences of about a thousand
    words (it hits Python's recursion limit, and LongBench counts 0); here they are scored.
    """
    ours, theirs = _sentences(prediction), _sentences(truth)
    if not ours or not theirs:
        return 0.0
    union = {ref[i] for ref in theirs for hyp in ours for i in common(ref, hyp, "second")}
    recall = len(union) / len({word for sentence in theirs for word in sentence})
    precision = len(union) / len({word for sentence in ours for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def rouge_lsum(prediction: str, truth: str) -> float:
    """F of rougeLsum of `rouge_score` without stemming: sentences are lines, and no word counts more often than it occurs."""
    ours, theirs = ([_tokens(line) for line in text.split("\n") if line] for text in (prediction, truth))
    left_ours, left_theirs = (Counter(token for line in lines for token in line) for lines in (ours, theirs))
    total_ours, total_theirs = left_ours.total(), left_theirs.total()
    hits = 0
    for ref in theirs:
        for i in sorted({i for hyp in ours for i in common(ref, hyp, "first")}):
            if left_ours[ref[i]] > 0 and left_theirs[ref[i]] > 0:
                hits += 1
                left_ours[ref[i]] -= 1
                left_theirs[ref[i]] -= 1
    return 2 * hits / (total_ours + total_theirs) if hits else 0.0


def common(first: Sequence[str], second: Sequence[str], skip: str) -> list[int]:
    """Positions in `first` of one of the longest common subsequences of two lists of words.

    Args:
        skip: the list from which a word is skipped first, seen from the end, if both choices give a longest
            subsequence. The one found decides the score, so it has to be the original's.
    """
    table = _lengths(first, second)
    i, j, found = len(first), len(second), []
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif table[i - 1, j] > table[i, j - 1] or (skip == "first" and table[i - 1, j] == table[i, j - 1]):
            i -= 1
        else:
            j -= 1
    return found[::-1]


def _lengths(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """(n + 1, m + 1) lengths of the longest common subsequences of all pairs of prefixes."""
    index = {word: i for i, word in enumerate(dict.fromkeys([*first, *second]))}
    columns = np.array([index[word] for word in second], dtype=np.int64)
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=np.int64)
    for i, word in enumerate(first, start=1):
        # Taking a match is never worse than skipping it, so the recurrence is a running maximum of both.
        grown = np.where(columns == index[word], table[i - 1, :-1] + 1, table[i - 1, 1:])
        table[i, 1:] = np.maximum.accumulate(grown)
    return table


def _sentences(text: str) -> list[list[str]]:
    """Words of the sentences; a sentence of spaces gives one empty word, as in the original."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _tokens(line: str) -> list[str]:
    return re.findall("[a-z0-9]+", line.lower())
