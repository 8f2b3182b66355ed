"""How well a ranking finds the evidence, without answering: the share of evidence in the best k pieces of a text."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...utils.files import write_text
from ...utils.hardware import command_line, environment, now
from ..statistics import pooled_bootstrap
from .meter import Meter
from .pieces import Piece, cut, golden
from .rankings import ranked
from .report import shown
from .sets import PackedText, Question

TOP = (1, 4, 8, 16)


class Ranks(Protocol):
    """A ranking of pieces: `rankings.Ranking`, or a memory's (`memory.MemoryRanking`)."""

    @property
    def name(self) -> str: ...
    def index(self, text: PackedText, pieces: Sequence[Piece]) -> Any: ...
    def scores(self, index: Any, question: Question) -> np.ndarray: ...


def fused(orders: Sequence[Sequence[int]], constant: int = 60) -> np.ndarray:
    """(pieces,) sums of reciprocal ranks (Cormack et al., SIGIR 2009)."""
    total = np.zeros(len(orders[0]))
    for order in orders:
        total[np.asarray(order)] += 1 / (constant + 1 + np.arange(len(order)))
    return total


def measure_selection(
    texts: Sequence[PackedText],
    rankings: Sequence[Ranks],
    hybrids: Sequence[Sequence[str]],
    meter: Meter,
    note: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """A row for each question and ranking: the share of the question's evidence in the best k pieces.

    Args:
        hybrids: names of rankings whose reciprocal ranks are added.
    """
    rows = []
    for text in texts:
        pieces = cut(text, meter)
        indexes, seconds = {}, {}
        for ranking in rankings:
            begin = now()
            indexes[ranking.name] = ranking.index(text, pieces)
            seconds[ranking.name] = now() - begin
        for question in text.questions:
            gold = golden(pieces, question.evidence)
            if not gold:
                continue
            orders, took = {}, {}
            for ranking in rankings:
                begin = now()
                orders[ranking.name] = ranked(ranking.scores(indexes[ranking.name], question))
                took[ranking.name] = now() - begin
            for names in hybrids:
                sums = "+".join(names)
                orders[sums] = ranked(fused([orders[name] for name in names]))
                seconds[sums], took[sums] = (sum(of[name] for name in names) for of in (seconds, took))
            for name, order in orders.items():
                found = {k: float(np.mean([bool(set(order[:k]) & set(some)) for some in gold])) for k in TOP}
                rows.append(
                    {"ranking": name, "text": text.id, "question": question.id, "group": question.group,
                     "kind": question.kind, "tokens": text.tokens, "pieces": len(pieces), "top": found,
                     "index": seconds[name], "seconds": took[name]}
                )  # fmt: skip
        note(f"{text.id}: {len(pieces)} pieces, {len(text.questions)} questions")
    return rows


def write_selection(folder: Path, label: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write LABEL.json with all rows, and LABEL.md with the table."""
    content = {"about": about, "command": command_line(), "environment": environment(), "rows": rows}
    write_text(folder / f"{label}.json", json.dumps(content))
    lines = [f"# Evidence among the best pieces: {label}", "", f"    {' '.join(command_line())}", ""]
    for kind in [None, *sorted({row["kind"] for row in rows} - {""})]:
        lines += _table([row for row in rows if kind in (None, row["kind"])], kind or "all questions")
    write_text(folder / f"{label}.md", "\n".join(lines) + "\n")
    return folder / f"{label}.md"


def _table(rows: list[dict[str, Any]], title: str) -> list[str]:
    lines = [
        f"| {title} | n | {' | '.join(f'top {k}' for k in TOP)} | index, s | a question, s |",
        "|---|--:|" + "--:|" * (len(TOP) + 2),
    ]
    for name in dict.fromkeys(row["ranking"] for row in rows):
        mine = [row for row in rows if row["ranking"] == name]
        cells = []
        for k in TOP:
            values: dict[str, list[float]] = defaultdict(list)
            for row in mine:
                values[row["group"]].append(row["top"][k])
            cells.append(shown(pooled_bootstrap(values)))
        index, took = (float(np.mean([row[key] for row in mine])) for key in ("index", "seconds"))
        lines.append(f"| {name} | {len(mine)} | {' | '.join(cells)} | {index:.1f} | {took:.3f} |")
    return [*lines, ""]
