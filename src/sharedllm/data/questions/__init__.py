"""Questions over long documents with checkable answers; one kind a class, found by its name."""

from ...utils.errors import UserError
from .base import QuestionTask, Quiz, Split, hide, is_right, render, sentence_borders
from .needle import ManyNeedles, MultiQuery, MultiValue, Needle, crowd
from .quoting import Follows, Quotation
from .tracking import Counting, Variables

TASKS: dict[str, QuestionTask] = {
    task.name: task
    for task in (
        Needle(),
        ManyNeedles(),
        MultiValue(),
        MultiQuery(),
        Variables(),
        Counting(),
        Follows(),
        Quotation(),
    )
}


def get_task(name: str) -> QuestionTask:
    """A task by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}: use one of {', '.join(TASKS)}.")
    return TASKS[name]


__all__ = [
    "TASKS",
    "QuestionTask",
    "Quiz",
    "Split",
    "crowd",
    "get_task",
    "hide",
    "is_right",
    "render",
    "sentence_borders",
]
