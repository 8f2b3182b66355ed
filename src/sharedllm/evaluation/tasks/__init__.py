"""Tasks by name."""

from ...data.questions.moving import Moves
from ...data.questions.needle import ManyNeedles, MultiQuery, MultiValue, Needle
from ...data.questions.tracking import Variables
from ...utils.errors import UserError
from .asking import Asking, Passkey
from .base import DoesNotFit, Setting, Task, Text, score_texts
from .copying import Copying
from .loss import Loss
from .mentions import Mentions

__all__ = ["TASKS", "DoesNotFit", "Setting", "Task", "Text", "get_task", "score_texts"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Loss(),
        Loss("other"),
        Loss("shuffled"),
        Mentions(),
        Copying(),
        Asking(Passkey()),
        Asking(Needle()),
        Asking(ManyNeedles("keys-4", distractors=3)),
        Asking(ManyNeedles("keys-16", distractors=15)),
        Asking(ManyNeedles("keys-64", distractors=63)),
        Asking(MultiValue("values", values=3)),
        Asking(MultiQuery("queries", keys=2)),
        *(Asking(Variables(f"hops-{hops}", hops, hops)) for hops in (1, 2, 3, 4)),
        Asking(Moves("moves-1", people=3, moves=1)),
        Asking(Moves("moves-3", people=3, moves=3)),
    )
}


def get_task(name: str) -> Task:
    """
    Raises:
        UserError: there is no such task; names those that there are.
    """
    if name not in TASKS:
        raise UserError(f"task {name!r} is not known: use one of {', '.join(TASKS)}.")
    return TASKS[name]
