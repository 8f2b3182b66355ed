"""Asks texts of every length. Each text's answers are one file, which is written atomically and only once."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...utils.errors import UserError
from ...utils.files import write_text
from ...utils.hardware import command_line, environment
from ...utils.version import __version__
from ..corpus import Documents
from .ask import Asker
from .forms import LEAD
from .texts import KINDS, make_text


@dataclass(frozen=True)
class RecallPlan:
    """lengths: tokens of a text. cases: questions of each kind and length. per_text: how many of them are about one text.
    asked: how, one of `forms.FORMS`."""

    documents: Documents
    lengths: Sequence[int]
    cases: int
    per_text: int
    seed: int
    asked: str = LEAD


def measure(
    plan: RecallPlan,
    asker: Asker,
    folder: Path,
    about: dict[str, Any],
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Ask everything that has not been asked yet.

    Args:
        about: everything besides the plan that decides the numbers, such as hashes of models; a folder with other
            values is refused.
        progress: called with one line per text.

    Raises:
        UserError: the folder holds another measurement, or the documents are too short.
    """
    about |= {
        "cases": plan.cases,
        "per_text": plan.per_text,
        "seed": plan.seed,
        "budgets": list(asker.budgets),
        "scores": list(asker.scores),
        "data": {"domain": plan.documents.domain, "digest": plan.documents.digest},
    }
    if plan.asked != LEAD:  # measurements from before there were other forms have no entry
        about |= {"asked": plan.asked}
    path, about, commands = folder / "run.json", json.loads(json.dumps(about)), [command_line()]
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["about"] != about:
            keys = there["about"] | about
            changed = ", ".join(key for key in keys if there["about"].get(key) != about.get(key))
            raise UserError(f"{folder} holds another measurement, which differs in {changed}: name another folder.")
        commands = there["commands"] + [command for command in commands if command not in there["commands"]]
    write_text(path, json.dumps({"about": about, "commands": commands}))
    for length in plan.lengths:
        for number in range(-(-plan.cases // plan.per_text)):
            cell = folder / "texts" / str(length) / f"{number}.json"
            if cell.is_file():
                continue
            begin = time.perf_counter()
            count = min(plan.per_text, plan.cases - number * plan.per_text)
            text = make_text(
                plan.documents, asker.tokenizer, length, count, f"{plan.seed} {length} {number}", plan.asked
            )
            answers = [asdict(answer) for answer in asker.answers(text)]
            content = {
                "length": length,
                "text": number,
                "seconds": round(time.perf_counter() - begin, 1),
                "environment": {"sharedllm": __version__} | environment(),
                "answers": answers,
            }
            write_text(cell, json.dumps(content))
            shown = {kind.name: f"{_share([a for a in answers if a['kind'] == kind.name]):.0%}" for kind in KINDS}
            progress(f"{length:,} tokens, text {number}: {content['seconds']} s; right over all policies: {shown}")


def _share(answers: list[dict[str, Any]]) -> float:
    return sum(a["right"] for a in answers) / max(1, len(answers))
