"""Runs tasks × domains × systems × lengths; every cell is one file, which is written atomically and only once."""

import json
import operator
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..memory.fingerprint import same_model
from ..systems.evaluated import EvaluatedSystem
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.hardware import command_line, environment
from ..utils.version import __version__
from .corpus import Documents
from .tasks.base import DoesNotFit, Setting, Task, score_texts


@dataclass(frozen=True)
class Plan:
    """The evaluation to run. lengths: tokens before the scored text."""

    tasks: Sequence[Task]
    documents: Sequence[Documents]
    systems: Sequence[EvaluatedSystem]
    lengths: Sequence[int]
    setting: Setting

    def cells(self) -> Iterator[tuple[Task, Documents, EvaluatedSystem, int]]:
        for task in self.tasks:
            for documents in self.documents:
                for length in self.lengths:
                    for system in self.systems:
                        yield task, documents, system, length


def cell_path(folder: Path, task: Task, documents: Documents, system: EvaluatedSystem, length: int) -> Path:
    return folder / "cells" / task.name / documents.domain / re.sub("[:@/]", "-", system.name) / f"{length}.json"


def evaluate(
    plan: Plan, folder: Path, about: dict[str, Any], progress: Callable[[str], None] = lambda text: None
) -> None:
    """Measure every missing cell.

    Args:
        about: identities of the `models` by their roles, and everything else that decides the numbers; saved in `run.json` with versions,
            hardware and data. A folder with another `about` is refused.
        progress: called with one line per cell.

    Raises:
        UserError: the folder holds another evaluation, or a document is too short for a length.
    """
    setting = plan.setting
    about |= {
        "window": setting.window,
        "longest": setting.longest,
        "cases": setting.cases,
        "seed": setting.seed,
        "data": {d.domain: {"digest": d.digest, "documents": len(d.names)} for d in plan.documents},
    }
    _begin(folder, about, plan)
    for task, documents, system, length in plan.cells():
        path = cell_path(folder, task, documents, system, length)
        if path.is_file():
            continue
        begin = time.perf_counter()
        texts = task.texts(documents, length, setting)
        try:
            records = [
                text.label | {"values": task.values(text, scores)}
                for text, scores in score_texts(system, texts, setting.batch_tokens)
            ]
        except DoesNotFit as reason:
            progress(f"left out: {reason}")
            continue
        column = next(iter(records[0]["values"]))
        mean = sum(r["values"][column] for r in records) / len(records)
        cell = {
            "task": task.name,
            "domain": documents.domain,
            "system": system.name,
            "length": length,
            "accuracy": task.accuracy,
            "seconds": round(time.perf_counter() - begin, 2),
            "environment": {"sharedllm": __version__} | environment(),
            "records": records,
        }
        write_text(path, json.dumps(cell))
        progress(f"{task.name}, {documents.domain}, {length} tokens, {system.name}: {column} {mean:.4f}")


def load_about(folder: Path) -> dict[str, Any]:
    """The settings that decided the numbers of a folder.

    Raises:
        UserError: it was not made by an evaluation.
    """
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))["about"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder} holds no results: name a folder that `sharedllm eval` made.") from None


def renamed(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell with current names; older files call a system a method."""
    return {"system" if key == "method" else key: value for key, value in cell.items()}


def load_cells(folder: Path) -> list[dict[str, Any]]:
    """All cells of a folder.

    Raises:
        UserError: there are no cells, or one can't be read; names it.
    """
    cells = []
    for path in sorted((folder / "cells").rglob("*.json")):
        try:
            cells.append(renamed(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a result of an evaluation: {error}.") from None
    if not cells:
        raise UserError(f"{folder} holds no results: name a folder that `sharedllm eval` made.")
    return cells


def _begin(folder: Path, about: dict[str, Any], plan: Plan) -> None:
    path, about = folder / "run.json", json.loads(json.dumps(about))
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))["about"]
        # Data and models that only one of the two has don't affect existing cells.
        changed = [k for k in about if k not in ("data", "models") and there.get(k) != about[k]]
        for group, same in (("data", operator.eq), ("models", same_model)):
            both = set(about[group]) & set(there[group])
            changed += [f"{group} {name}" for name in sorted(both) if not same(about[group][name], there[group][name])]
        if changed:
            # The longest text decides which documents serve.
            said = ["the longest length" if name == "longest" else name for name in changed]
            raise UserError(
                f"{folder} holds another evaluation, which differs in {', '.join(said)}: name another folder."
            )
        for group in ("data", "models"):
            about[group] = there[group] | about[group]
    left_out = {}
    for documents in plan.documents:
        _, short = documents.long_enough(plan.setting.longest + plan.setting.window // 4)
        left_out[documents.domain] = short
    write_text(path, json.dumps({"about": about, "command": command_line(), "left_out": left_out}))
