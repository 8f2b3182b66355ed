"""Sets of questions about long texts, by name. A set is one class and one entry here (see `base.QuestionSet`)."""

from ....utils.registry import Registry
from .base import Half, Item, PackedText, Question, QuestionSet, Span, TextSpec

SETS = Registry("sets={}")

_add = SETS.add
_add("nq", f"{__name__}.passages:NaturalQuestions", "search queries, each with a passage of Wikipedia")
_add("hotpotqa", f"{__name__}.passages:HotpotQA", "questions that need two paragraphs")
_add("fairytaleqa", f"{__name__}.stories:FairytaleQA", "questions about tales, with the sections that answer them")
_add("narrativeqa", f"{__name__}.stories:NARRATIVEQA", "questions about whole books")
_add("qmsum", f"{__name__}.stories:QMSUM", "what was said in a meeting")
_add("squality", f"{__name__}.stories:SQUALITY", "summaries of stories")
for _size in (75, 140):
    _records = f"{__name__}.passages:Records"
    _add(f"kv{_size}", _records, f"{_size} UUIDs with UUIDs as values, each on a line", name=f"kv{_size}")
    _add(f"kv{_size}-line", _records, "the same records on a single line", name=f"kv{_size}-line", between=", ")
_add("clinc", f"{__name__}.counting:Counting", "how many lines are about something")
_add("codelong", f"{__name__}.code:CodeLines", "the next line of code, which calls a function from far before")
for _keys in (4, 16, 64):
    _add(f"keys-{_keys}", f"{__name__}.synthetic:Facts", f"each of {_keys} facts of the same form", alike=_keys)
_add("reworded", f"{__name__}.reworded:Reworded", "facts that are asked for in other words")
_add("values", f"{__name__}.synthetic:Values", "three values of one key")
_add("variables", f"{__name__}.synthetic:Tracking", "a value passed on one to four times")

__all__ = ["SETS", "Half", "Item", "PackedText", "Question", "QuestionSet", "Span", "TextSpec"]
