"""Tables of results, from the files of `run` alone: scores with intervals, paired differences, and costs."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

from ...utils.errors import UserError
from ...utils.files import write_text
from ...utils.text_files import some
from ..statistics import Estimate, pooled_bootstrap, share_over_groups
from .run import rows_of

SAME = "same-pieces-text"
# Scores whose values are 0 or 1.
SHARES = ("hit", "em", "number", "all_named", "line")
TIMES = (1, 10, 100, 1000)
# With fewer groups of questions a difference has no interval: a bootstrap over two stories has only their two values.
FEWEST = 6


@dataclass(frozen=True)
class Contender:
    """Answers of one system at one budget, by question."""

    system: str
    budget: int | None
    rows: dict[str, dict[str, Any]]
    skipped: list[str]


@dataclass(frozen=True)
class Cell:
    """A set at a length. about: everything that decided the questions. named: description of the models."""

    label: str
    about: dict[str, Any]
    named: str
    commands: list[list[str]]
    environment: dict[str, Any]
    contenders: list[Contender]


def load(folder: Path) -> list[Cell]:
    """
    Raises:
        ValueError: the folder holds no results.
    """
    cells = []
    for path in sorted(folder.glob("*/run.json")):
        run, contenders = json.loads(path.read_text(encoding="utf-8")), []
        for file in sorted(path.parent.glob("*.jsonl")):
            rows = rows_of(file)
            if rows:
                answered = {row["question"]: row for row in rows if "scores" in row}
                skipped = sorted({row["skipped"] for row in rows if "skipped" in row})
                contenders.append(Contender(rows[0]["system"], rows[0]["budget"], answered, skipped))
        cells.append(
            Cell(path.parent.name, run["about"], run["named"], run["commands"], run["environment"], contenders)
        )
    if not cells:
        raise UserError(f"{folder} holds no results: name a folder that `sharedllm qa` made.")
    return sorted(cells, key=lambda cell: (cell.about["set"], cell.about["length"]))


def estimate(rows: Sequence[dict[str, Any]], metric: str) -> Estimate:
    """Mean of a score over questions, which are grouped by text: with an interval of a share, else of a bootstrap."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row["group"]].append(row["scores"][metric])
    return share_over_groups(values) if metric in SHARES else pooled_bootstrap(values)


def difference(ours: Contender, theirs: Contender, metric: str) -> Estimate | None:
    """Ours minus theirs on the questions that both answered, with a bootstrap over groups of questions: without interval if these
    are fewer than `FEWEST`, None if there is no question."""
    values: dict[str, list[float]] = defaultdict(list)
    for key in sorted(ours.rows.keys() & theirs.rows.keys()):
        row = ours.rows[key]
        values[row["group"]].append(row["scores"][metric] - theirs.rows[key]["scores"][metric])
    if not values:
        return None
    found = pooled_bootstrap(values)
    return found if len(values) >= FEWEST else replace(found, low=nan, high=nan)


def write_report(folder: Path) -> Path:
    """Write report.md to the folder."""
    cells = load(folder)
    lines = ["# Questions about long texts, by system", ""]
    lines += [f"    {' '.join(command)}" for command in {tuple(c): c for cell in cells for c in cell.commands}.values()]
    lines += [
        "",
        "Every system gets the same texts and the same prompt, and writes greedily up to the same number of tokens. n: questions. "
        "95 % intervals over stories, books or texts: of shares Wilson's for as many independent questions as have the same "
        "variance, else of a bootstrap; "
        f"the difference to {SAME} is paired, by question, and has an interval over {FEWEST} or more of these. Read: seconds for the text, once. A question: seconds for each, "
        "after that; operations in 10⁹.",
        "",
    ]
    for cell in cells:
        lines += _section(cell)
    write_text(folder / "report.md", "\n".join(lines) + "\n")
    return folder / "report.md"


def _weights(models: dict[str, Any]) -> str:
    """The hash of the base's weights; older results have nothing else of a model."""
    base = models.get("base", "?")
    return base if isinstance(base, str) else base["sha256"]


def _section(cell: Cell) -> list[str]:
    about, metrics = cell.about, cell.about["metrics"]
    first = metrics[0]
    lines = [
        f"## {about['set']}, {about['length']:,} tokens" if about["length"] else f"## {about['set']}, whole documents",
        "",
        f"{cell.named or 'base ' + _weights(about['models'])}; {about['half']} ids, seed {about['seed']}; "
        f"{cell.environment.get('cpu') or ''}, {some(cell.environment.get('threads', '?'), 'thread')}.",
        "",
        f"| system | budget | n | {first} | minus {SAME} | {' | '.join(metrics[1:])}{' | ' if metrics[1:] else ''}"
        "read, s | a question, s | context | of the text | operations |",
        "|---|--:|--:|" + "--:|" * (len(metrics) + 6),
    ]
    rivals = {c.budget: c for c in cell.contenders if c.system == SAME}
    for c in sorted(cell.contenders, key=lambda c: (c.budget or 0, c.system)):
        rows = list(c.rows.values())
        if not rows:
            lines.append(f"| {c.system} | {_count(c.budget)} | 0 | {'; '.join(c.skipped)} |")
            continue
        rival = rivals.get(c.budget) or (next(iter(rivals.values())) if c.budget is None and len(rivals) == 1 else None)
        minus = difference(c, rival, first) if rival is not None and rival is not c else None
        cells = [
            c.system, _count(c.budget), str(len(rows)), shown(estimate(rows, first)),
            "–" if minus is None else shown(minus, signed=True),
            *(shown(estimate(rows, metric)) for metric in metrics[1:]),
            f"{_mean([r['prepare'] for r in rows]):,.1f}", f"{_mean([sum(r['seconds'].values()) for r in rows]):.2f}",
            f"{_mean([r['context_tokens'] for r in rows]):,.0f}", f"{_mean([r['selected_tokens'] for r in rows]):,.0f}",
            _operations(rows),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_kinds(cell, first), *_totals(cell)]


def _totals(cell: Cell) -> list[str]:
    """Cost of different numbers of questions about one text, including reading it: seconds and operations."""
    contenders = [c for c in sorted(cell.contenders, key=lambda c: (c.budget or 0, c.system)) if c.rows]
    lines = []
    for title, total in (("Seconds", total_seconds), ("10¹² operations", total_operations)):
        lines += [f"{title} for so many questions about one text, reading included:", ""]
        lines += [f"| system | budget | {' | '.join(f'{n:,}' for n in TIMES)} |", "|---|--:|" + "--:|" * len(TIMES)]
        for c in contenders:
            totals = [total(c, n) for n in TIMES]
            shown = (f"{n:,.0f}" if n is not None and n >= 10 else "–" if n is None else f"{n:.2g}" for n in totals)
            lines.append(f"| {c.system} | {_count(c.budget)} | {' | '.join(shown)} |")
        lines.append("")
    return lines


def total_seconds(contender: Contender, questions: int) -> float:
    """Seconds for reading one text and answering so many questions about it."""
    rows = list(contender.rows.values())
    return _mean([row["prepare"] for row in rows]) + questions * _mean([sum(row["seconds"].values()) for row in rows])


def total_operations(contender: Contender, questions: int) -> float | None:
    """10¹² operations of reading one text and so many questions about it; None if they are unknown."""
    rows = [row for row in contender.rows.values() if row["operations"] is not None]
    if not rows:
        return None
    read = _mean([row.get("read_operations", 0.0) for row in rows])
    return (read + questions * _mean([row["operations"] for row in rows])) / 1e12


def named(contender: Contender) -> str:
    """System and budget, for legends."""
    return contender.system if contender.budget is None else f"{contender.system}, {contender.budget:,}"


def _kinds(cell: Cell, metric: str) -> list[str]:
    """The main score of each kind of question, if there are several."""
    kinds = sorted({row["kind"] for c in cell.contenders for row in c.rows.values()})
    if len(kinds) < 2:
        return []
    lines = [f"{metric} by kind of question:", "", f"| system | budget | {' | '.join(kinds)} |"]
    lines.append("|---|--:|" + "--:|" * len(kinds))
    for c in sorted(cell.contenders, key=lambda c: (c.budget or 0, c.system)):
        cells = []
        for kind in kinds:
            rows = [row for row in c.rows.values() if row["kind"] == kind]
            cells.append(f"{shown(estimate(rows, metric))}, n = {len(rows)}" if rows else "–")
        lines.append(f"| {c.system} | {_count(c.budget)} | {' | '.join(cells)} |")
    return [*lines, ""]


def shown(found: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    interval = "" if isnan(found.low) else f" [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"
    return f"{100 * found.mean:{sign}.1f}{interval}"


def _count(budget: int | None) -> str:
    return "–" if budget is None else f"{budget:,}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _operations(rows: Sequence[dict[str, Any]]) -> str:
    known = [row["operations"] for row in rows if row["operations"] is not None]
    return f"{_mean(known) / 1e9:,.0f}" if known else "–"
