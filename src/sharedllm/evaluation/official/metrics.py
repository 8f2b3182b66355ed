"""Scores of one answer, between 0 and 1, as defined by the benchmarks.

Each takes the prediction and the right answers. LongBench: metrics.py and eval.py of THUDM/LongBench (arXiv
2308.14508), pred.py for v2 (arXiv 2412.15204). InfiniteBench: src/compute_scores.py of OpenBMB/InfiniteBench (arXiv
2402.13718). RULER: scripts/eval/synthetic/constants.py of NVIDIA/RULER (arXiv 2404.06654). Oddities below are theirs,
kept so that numbers are comparable.
"""

import difflib
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...utils.errors import UserError
from .rouge import rouge_l, rouge_lsum

_WIDE = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
_LETTERS = "ABCD"


def _spaced(text: str, marks: Iterable[str]) -> str:
    for mark in marks:
        text = text.replace(mark, " ")
    return text


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _characters(text: str) -> str:
    """Lower case, without punctuation (Chinese too) and spaces."""
    return "".join("".join(c for c in text.lower() if c not in string.punctuation + _WIDE).split())


def _segmented(text: str) -> list[str]:
    try:
        import jieba  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "jieba, which splits Chinese answers into words, is not installed: pip install jieba."
        ) from None
    return list(jieba.cut(text, cut_all=False))


def _f1(prediction: Sequence[str], truth: Sequence[str]) -> float:
    same = sum((Counter(prediction) & Counter(truth)).values())
    return 2 * same / (len(prediction) + len(truth)) if same else 0.0


def qa_f1(prediction: str, truth: str, _: Any = None) -> float:
    """F1 of the words."""
    return _f1(_words(prediction), _words(truth))


def qa_f1_zh(prediction: str, truth: str, _: Any = None) -> float:
    """F1 of jieba's words."""
    parts = ([w for w in map(_characters, _segmented(text)) if w] for text in (prediction, truth))
    return _f1(*parts)


def character_f1(prediction: str, truth: str, _: Any = None) -> float:
    """F1 of the characters (InfiniteBench, Chinese)."""
    return _f1(_characters(prediction), _characters(truth))


def rouge(prediction: str, truth: str, _: Any = None) -> float:
    return rouge_l(prediction, truth)


def rouge_zh(prediction: str, truth: str, _: Any = None) -> float:
    return rouge_l(" ".join(_segmented(prediction)), " ".join(_segmented(truth)))


def summary_rouge(prediction: str, truth: str, _: Any = None) -> float:
    return rouge_lsum(prediction, truth)


def classification(prediction: str, truth: str, classes: Sequence[str]) -> float:
    """1 / the number of classes named, if the right one is among them.

    A named class that is part of the right one's name does not count. But the original removes it from the list while
    iterating, and so skips the class after it.
    """
    named = [name for name in classes if name in prediction]
    at = 0
    while at < len(named):
        if named[at] in truth and named[at] != truth:
            named.remove(named[at])
        at += 1
    return 1 / len(named) if truth in named else 0.0


def count(prediction: str, truth: str, _: Any = None) -> float:
    """Share of the numbers in the answer that are right."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(str(truth)) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, truth: str, _: Any = None) -> float:
    return count(prediction, re.findall(r"Paragraph (\d+)", truth)[0])


def retrieval_zh(prediction: str, truth: str, _: Any = None) -> float:
    return count(prediction, re.findall(r"段落(\d+)", truth)[0])


def code_sim(prediction: str, truth: str, _: Any = None) -> float:
    """Similarity of the first line that is not a comment, in whole per cent.

    This is fuzzywuzzy's ratio without python-Levenshtein: difflib's, rounded.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((li for li in lines if not any(mark in li for mark in ("`", "#", "//"))), "")
    return round(100 * difflib.SequenceMatcher(None, line, truth).ratio()) / 100


def choice(prediction: str, truth: str, _: Any = None) -> float:
    """Whether the letter after "The correct answer is" is right (LongBench v2)."""
    text = prediction.strip().replace("*", "")
    for pattern in (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])"):
        if found := re.search(pattern, text):
            return float(found[1] == truth)
    return 0.0


def first_integer(prediction: str, truth: str, _: Any = None) -> float:
    """Whether the first run of digits is the answer."""
    found = re.search(r"[0-9]+", prediction)
    return float((found[0] if found else "") == truth)


def last_integer(prediction: str, truth: int, _: Any = None) -> float:
    """Whether the last word is the answer as an integer."""
    words = _spaced(prediction.strip(), "\n.`'\":").split()
    try:
        return float(int(words[-1]) == truth)
    except (IndexError, ValueError):
        return 0.0


def word(prediction: str, truth: str, _: Any = None) -> float:
    """Whether the answer is one of the words."""
    return float(truth in _spaced(prediction, "\n:\"'.,?!{}").split())


def speaker(prediction: str, truth: str, _: Any = None) -> float:
    """Whether the answer is one of the words, written in capitals."""
    return float(truth in _spaced(prediction.strip(), "\n:\"'.,?!{}").upper().split())


def number(prediction: str, truth: int | float, _: Any = None) -> float:
    """Whether the first number is the answer."""
    found = re.search(r"\d+\.\d+|\d+", prediction)
    # The original fails with an error at "12.5" if an integer is expected; here that is a wrong answer.
    return float(found is not None and float(found[0]) == truth)


def _after(text: str, prefixes: Sequence[str]) -> str | None:
    """The text after the first prefix that occurs, without its first character; None if none occurs."""
    for prefix in prefixes:
        at = text.find(prefix)
        if at >= 0:
            return text[at + len(prefix) + 1 :]
    return None


def option(prediction: str, label: tuple[str, str], _: Any = None) -> float:
    """Whether the chosen option is right. label: its text and its letter."""
    text = prediction.strip()
    if not text:
        return 0.0
    if text[0] in _LETTERS:
        return float(text[0] in label)
    if text in label:
        return 1.0
    text = re.sub(" +", " ", _spaced(text, "\n\"'.,?!{}"))
    behind = _after(text, ("answer is:", "answer:", "answer is", "option is"))
    if behind is not None:
        return float(any(behind.startswith(part) for part in label) and bool(behind))
    # A "word" is any piece of ABCD, as in the original.
    named = next((w for w in text.split() if w in _LETTERS), None)
    return float(named in label)


def bug(prediction: str, label: tuple[str, str], _: Any = None) -> float:
    """Whether the function named, or its letter, is right. label: its name and its letter."""
    text = prediction.strip()
    if text[:2] in (f"{label[1]}.", f"{label[1]}:"):
        return 1.0
    text = re.sub(" +", " ", _spaced(text, ("\n", "`", "'", '"', "-", "*", "Option", "option")))
    behind = _after(text, ("answer is:", "is:", "answer:", "correct option is:"))
    return float(behind is not None and any(behind.startswith(part) for part in label) and bool(behind))


def running_values(prediction: str, truth: Sequence[int], _: Any = None) -> float:
    """Share of the values that are right, up to the first wrong one."""
    written, right = [int(n) for n in re.findall(r"[0-9]+", prediction)], 0
    for ours, theirs in zip(written, truth, strict=False):
        if ours != theirs:
            break
        right += 1
    return right / len(truth)


def all_strings(prediction: str, truths: Sequence[str], _: Any = None) -> float:
    """Share of the strings that occur, ignoring case (RULER)."""
    text = re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip().lower()
    return sum(truth.lower() in text for truth in truths) / len(truths)


# metric(prediction, one right answer, classes)
METRICS: dict[str, Callable[[str, Any, Any], float]] = {
    "qa_f1": qa_f1,
    "qa_f1_zh": qa_f1_zh,
    "character_f1": character_f1,
    "rouge": rouge,
    "rouge_zh": rouge_zh,
    "rouge_lsum": summary_rouge,
    "classification": classification,
    "count": count,
    "retrieval": retrieval,
    "retrieval_zh": retrieval_zh,
    "code_sim": code_sim,
    "choice": choice,
    "first_integer": first_integer,
    "last_integer": last_integer,
    "word": word,
    "speaker": speaker,
    "number": number,
    "option": option,
    "bug": bug,
    "running_values": running_values,
    "all_strings": all_strings,
}
# Metrics whose answers occur literally in the text, so that answers within the last tokens of the prompt can be counted.
VERBATIM = ("all_strings", "first_integer", "word")
