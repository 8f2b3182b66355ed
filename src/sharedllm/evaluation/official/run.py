"""Asks a system the records of official tasks; every answer is saved, and no record is asked twice."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from ...systems.answering import AnsweringSystem
from ...utils.errors import UserError
from ...utils.files import write_text
from ...utils.hardware import command_line, environment
from ...utils.text import tokenize
from ...utils.version import __version__
from ..statistics import over_documents, wilson
from .base import Task, truncate_middle
from .metrics import VERBATIM, all_strings

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def _no_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda advance: None


def run_official(
    system: AnsweringSystem,
    tasks: Sequence[Task],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    *,
    cut: int | None = None,
    bar: Bar = _no_bar,
) -> dict[str, dict[str, Any]]:
    """Ask all records of all tasks and score the answers.

    `folder/SYSTEM/TASK` gets `run.json` (everything that decides the numbers, command, versions, hardware),
    `predictions.jsonl` (a line for each record, as soon as it is answered) and `result.json`. Finished work is not
    repeated.

    Args:
        tokenizer: counts and cuts prompts. window: tokens of the window oracle.
        cut: keep this many tokens of longer prompts, half from each end (`base.truncate_middle`); None cuts nothing.
        bar: shows the progress of a task.

    Returns:
        The result for each task's label:

        score, low, high    mean over the records and its 95 % interval, in per cent
        records             number of records
        blind               score of guessing without the text, or None
        window_oracle       share of the answers that occur in the last `window` tokens of the prompt, or None
        truncated, tokens_removed, longest number of cut prompts, of removed tokens, and of tokens in the longest uncut
        prompt

    Raises:
        UserError: a task's folder holds results with other settings; names the differences.
    """
    return {task.label: _run(system, task, folder, tokenizer, window, cut, bar) for task in tasks}


def _run(
    system: AnsweringSystem,
    task: Task,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    cut: int | None,
    bar: Bar,
) -> dict[str, Any]:
    place = folder / system.name / task.label
    about = _settings(system, task, window, cut)
    _begin(place, about)
    if (place / "result.json").is_file():
        return _renamed(json.loads((place / "result.json").read_text(encoding="utf-8")))
    done = _predictions(place / "predictions.jsonl")
    with bar(f"{system.name}, {task.label}", len(task.records)) as advance:
        advance(len(done))
        with (place / "predictions.jsonl").open("a", encoding="utf-8") as file:
            for record in task.records[len(done) :]:
                begin, prompt, removed = time.perf_counter(), record.prompt, 0
                tokens = tokenize(tokenizer, prompt.text)[0]
                if cut is not None:
                    prompt, removed = truncate_middle(prompt, tokenizer, cut)
                prediction = system.answer(prompt, task.max_new_tokens)
                line: dict[str, Any] = {
                    "id": record.id,
                    "prediction": prediction,
                    "score": task.score(prediction, record),
                    "tokens": len(tokens),
                    "removed": removed,
                    "seconds": round(time.perf_counter() - begin, 3),
                }
                if task.metric in VERBATIM:
                    answers = record.answers[0] if isinstance(record.answers[0], tuple) else record.answers[:1]
                    line["window_oracle"] = all_strings(str(tokenizer.decode(tokens[-window:])), answers)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                done.append(line)
                advance(1)
    result = _result(system, task, done)
    write_text(place / "result.json", json.dumps(result))
    return result


def _settings(system: AnsweringSystem, task: Task, window: int, cut: int | None) -> dict[str, Any]:
    digest = hashlib.sha256()
    for record in task.records:
        digest.update(json.dumps([record.id, record.prompt.text, record.answers, record.classes]).encode())
    about = {
        "task": task.name,
        "length": task.length,
        "metric": task.metric,
        "max_new_tokens": task.max_new_tokens,
        "first_line": task.first_line,
        "prompts": digest.hexdigest(),
        "truncate_middle": cut,
        "oracle_window": window,
        **task.about,
        "system": {"name": system.name, **system.about},
    }
    return json.loads(json.dumps(about))


def _begin(place: Path, about: dict[str, Any]) -> None:
    path = place / "run.json"
    if path.is_file():
        there = _renamed(json.loads(path.read_text(encoding="utf-8"))["about"])
        changed = [key for key in sorted(about | there) if about.get(key) != there.get(key)]
        if changed:
            raise UserError(f"{place} holds results with another {', '.join(changed)}: name another folder.")
        return
    settings = {"about": about, "command": command_line(), "environment": {"sharedllm": __version__} | environment()}
    write_text(path, json.dumps(settings))


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of an older file, in which a system was called an answerer."""
    return {"system" if key == "answerer" else key: value for key, value in content.items()}


def _predictions(path: Path) -> list[dict[str, Any]]:
    """The existing lines; an incomplete last line of a stopped run is removed."""
    if not path.is_file():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; remove it to ask these records again.") from None


def _result(system: AnsweringSystem, task: Task, lines: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [line["score"] for line in lines]
    shares = all(score in (0.0, 1.0) for score in scores)
    estimate = wilson(scores) if shares else over_documents({str(i): [s] for i, s in enumerate(scores)})
    blind = [record.blind for record in task.records if record.blind is not None]
    oracle = [line["window_oracle"] for line in lines if "window_oracle" in line]
    return {
        "task": task.name,
        "length": task.length,
        "system": system.name,
        "metric": task.metric,
        "score": 100 * estimate.mean,
        # Scores are shares; of one record nothing is known.
        "low": 100 * float(np.clip(np.nan_to_num(estimate.low, nan=0.0), 0, 1)),
        "high": 100 * float(np.clip(np.nan_to_num(estimate.high, nan=1.0), 0, 1)),
        "records": len(lines),
        "blind": 100 * sum(blind) / len(blind) if len(blind) == len(task.records) else None,
        "window_oracle": 100 * sum(oracle) / len(oracle) if oracle else None,
        "truncated": sum(line["removed"] > 0 for line in lines),
        "tokens_removed": sum(line["removed"] for line in lines),
        "longest": max(line["tokens"] for line in lines),
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }


def results_table(results: Sequence[dict[str, dict[str, Any]]]) -> Table:
    """Results of `run_official` for several systems side by side, followed by the baselines."""
    names = [next(iter(result.values()))["system"] for result in results]
    cuts = sum(row["truncated"] for result in results for row in result.values())
    caption = f"{cuts} prompts were cut in the middle" if cuts else None
    table = Table(title="Official tasks, per cent [95 %]", caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for heading in ("tokens\nat most", "n", *names, "blind\nguess", "window\noracle"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, first in results[0].items():
        cells = [f"{r[label]['score']:.1f} [{r[label]['low']:.0f}, {r[label]['high']:.0f}]" for r in results]
        table.add_row(
            label,
            f"{first['longest']:,}",
            str(first["records"]),
            *cells,
            *("–" if first[key] is None else f"{first[key]:.1f}" for key in ("blind", "window_oracle")),
        )
    return table
