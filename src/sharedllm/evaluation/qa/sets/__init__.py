"""Sets of questions about long texts, by name. Another set is one class and one entry here."""

from ....utils.errors import UserError
from .base import Half, Item, PackedText, Question, QuestionSet, Span, Wish
from .code import CodeLines
from .counting import Counting
from .passages import HotpotQA, NaturalQuestions, Records
from .stories import NARRATIVEQA, QMSUM, SQUALITY, FairytaleQA
from .synthetic import Facts, Tracking, Values

_ALL: tuple[QuestionSet, ...] = (
    NaturalQuestions(),
    HotpotQA(),
    FairytaleQA(),
    NARRATIVEQA,
    QMSUM,
    SQUALITY,
    Records("kv75"),
    Records("kv140"),
    Counting(),
    CodeLines(),
    Facts(4),
    Facts(16),
    Facts(64),
    Values(),
    Tracking(),
)
SETS: dict[str, QuestionSet] = {one.name: one for one in _ALL}


def get_set(name: str) -> QuestionSet:
    """
    Raises:
        ValueError: no set of that name; lists those there are.
    """
    if name not in SETS:
        raise UserError(f"--set {name!r} is not known: use one of {', '.join(SETS)}.")
    return SETS[name]


__all__ = ["SETS", "Half", "Item", "PackedText", "Question", "QuestionSet", "Span", "Wish", "get_set"]
