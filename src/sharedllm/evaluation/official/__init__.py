"""LongBench, InfiniteBench and RULER-form tasks for any system that answers prompts, with official prompts, lengths and
metrics.

read_task(name, data) / ruler_task(name, …)  →  Task  →  run_official(system, tasks, folder, …)

GROUPS is their only table. They are not entries of `evaluation.tasks.TASKS`, because they are a different kind (records
whose answers are generated and scored as text; the others score given tokens), and some names occur in both, such as
`passkey`.
"""

from collections.abc import Sequence

from ...utils.errors import UserError
from .base import Record, Task, templates
from .records import read_task
from .ruler import GENERATED as RULER
from .ruler import ruler_task
from .run import run_official

_LONGBENCH = tuple(name for name in templates("longbench") if name != "longbench_v2")
GROUPS = {
    "longbench": _LONGBENCH,
    "longbench_v2": ("longbench_v2",),
    "infinitebench": tuple(templates("infinitebench")),
    "ruler": tuple(RULER),
}


def task_names(names: Sequence[str]) -> list[str]:
    """Names of tasks, each once; a benchmark's name expands to all of its tasks.

    Raises:
        UserError: an unknown name.
    """
    found: dict[str, None] = {}
    known = [name for group in GROUPS.values() for name in group]
    for name in names:
        if name in ("qa_1", "qa_2"):
            raise UserError(f"{name} is made of SQuAD and HotpotQA, which RULER downloads: use the other ruler tasks.")
        if name not in GROUPS and name not in known:
            raise UserError(f"there is no official task {name!r}: use {', '.join(dict.fromkeys((*GROUPS, *known)))}.")
        found |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(found)


__all__ = [
    "GROUPS",
    "Record",
    "Task",
    "read_task",
    "ruler_task",
    "run_official",
    "task_names",
]
