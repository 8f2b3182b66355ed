"""Evaluation tasks. A task is one file and one line here (see `base.Task`); a new kind of question needs no line.

Tasks of published benchmarks, with their own prompts and metrics, are in `evaluation.official`.
"""

from ...data.questions import QUESTIONS
from ...utils.registry import Registry

TASKS = Registry("task {}", aliases=QUESTIONS.aliases)

_add = TASKS.add
_add("loss", f"{__name__}.loss:Loss", "loss of the same tokens by the text before them")
_add("loss-other", f"{__name__}.loss:Loss", "with another document's text before them", front="other")
_add("loss-shuffled", f"{__name__}.loss:Loss", "with their own text before them, shuffled", front="shuffled")
_add("loss-by-mention", f"{__name__}.mentions:Mentions", "loss by how far back a token was last mentioned")
_add("copy", f"{__name__}.copying:Copying", "the second copy of a span")
for _name in QUESTIONS:
    # Kinds left out ask about the text itself, have an answer that does not occur in it, or choose another kind at
    # random (hops-1 … 4).
    if _name not in ("follows", "quotation", "counting", "variables"):
        _add(_name, f"{__name__}.asking:asking", QUESTIONS.about[_name], name=_name)
