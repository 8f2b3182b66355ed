"""Tables made only from the cells of evaluations."""

import math
from statistics import stdev
from typing import Any

from .cells import Cell, Index, estimate, main_column
from .statistics import Estimate, holm, paired_difference
from .tasks.mentions import GROUPS


def markdown(cells: Index, window: int, ours: str = "sharedllm") -> str:
    """One table for each task and domain, with systems side by side; for losses, paired differences between ours and
    each other."""
    parts = []
    for (task, domain), rows in cells.items():
        systems = list(dict.fromkeys(system for row in rows.values() for system in row))
        first = next(iter(next(iter(rows.values())).values()))
        targets = len(first["records"])
        trained = len(first.get("trainings", [0]))
        several = f", means of {trained} trainings ± their standard deviation{_fewer(rows)}" if trained > 1 else ""
        seeds = f" of {len(first['seeds'])} seeds" if "seeds" in first else ""
        parts.append(f"### {task}, {domain}\n\n{targets} texts per cell{seeds}, {main_column(first)}{several}.\n")
        parts.append(_table([_row(length, window, row, systems, _plain) for length, row in rows.items()], systems))
        others = [m for m in systems if m != ours]
        if not first["accuracy"] and ours in systems and others:
            parts.append(
                f"\n{ours} minus each system, same targets; 95 % intervals, Student's t over documents{_and_trainings(first)}. "
                "\\*: not 0 by Holm's correction over this table.\n"
            )
            parts.append(_table(_differences(rows, window, ours, others), others))
        for group in sorted({k for r in first["records"] for k in r["values"]} & set(GROUPS), key=GROUPS.index):
            parts.append(f"\nLast mentioned: {group}.\n")
            lines = [
                _row(length, window, row, systems, lambda c, g=group: f"{estimate(c, g).mean:.3f}")
                for length, row in rows.items()
            ]
            parts.append(_table(lines, systems))
        parts.append("")
    for domain in dict.fromkeys(domain for _, domain in cells):
        systems = dict.fromkeys(system for row in cells.get(("loss", domain), {}).values() for system in row)
        for system in sorted(systems, key=lambda system: system != ours):
            if system == ours or _reads(cells, system, domain):
                parts += _controls(cells, window, system, domain)
    return "\n".join(parts)


def _reads(cells: Index, system: str, domain: str) -> bool:
    """Whether other text as context changes a system's losses: the window alone has none."""
    return any(
        estimate(control[length][system]).mean != estimate(row[system]).mean
        for (task, where), control in cells.items()
        for length, row in cells["loss", domain].items()
        if where == domain and task.startswith("loss-") and system in row and system in control.get(length, {})
    )


def _controls(cells: Index, window: int, system: str, domain: str) -> list[str]:
    """Whether a system uses the text itself: its loss after the own text minus the loss after each control."""
    own = cells.get(("loss", domain), {})
    fronts = [task for task, where in cells if where == domain and task.startswith("loss-")]
    rows = []
    for length, row in own.items():
        others = [cells[front, domain].get(length, {}).get(system) for front in fronts]
        if system in row and length + window // 4 > window and any(others):
            changes = ["–" if cell is None else shown(difference(row[system], cell)) for cell in others]
            rows.append([f"{length:,}", f"{length / window:g}", f"{estimate(row[system]).mean:.3f}", *changes])
    if not rows:
        return []
    columns = ["own", *(f"own − {front.removeprefix('loss-')}" for front in fronts)]
    title = f"### {system}, {domain}: its own text compared with other text as context\n"
    return [title, _table(rows, columns), ""]


def _plain(cell: Cell) -> str:
    e = estimate(cell)
    shown_as = ".0%" if cell["accuracy"] else ".3f"
    spread = f" ± {stdev(cell['trainings']):{shown_as}}" if "trainings" in cell else ""
    return (e.percent if cell["accuracy"] else f"{e.mean:.3f}") + spread


def _fewer(rows: dict[int, dict[str, Cell]]) -> str:
    """Which systems were not measured with all of their trainings at every length."""
    counts: dict[str, set[int]] = {}
    for row in rows.values():
        for system, cell in row.items():
            counts.setdefault(system, set()).add(len(cell.get("trainings", [0])))
    uneven = [f"{system}: of {min(some)} at some lengths" for system, some in counts.items() if len(some) > 1]
    return f" ({', '.join(uneven)})" if uneven else ""


def _and_trainings(cell: Cell) -> str:
    return " and trainings" if len(cell.get("trainings", [])) > 1 else ""


def _differences(rows: dict[int, dict[str, Cell]], window: int, ours: str, others: list[str]) -> list[list[str]]:
    """Rows of a table of differences, with a mark where one is not 0 although there are so many."""
    found = {
        (length, other): difference(row[ours], row[other])
        for length, row in rows.items()
        for other in others
        if ours in row and other in row
    }
    marked = dict(zip(found, holm([e.p for e in found.values()]), strict=True))

    def text(length: int, other: str) -> str:
        key = length, other
        return shown(found[key]) + "\\*" * marked[key] if key in found else "–"

    return [[f"{n:,}", f"{n / window:g}", *(text(n, other) for other in others)] for n in rows]


def difference(ours: Cell, theirs: Cell) -> Estimate:
    """Ours minus theirs on the same texts. Trainings are paired by their seeds' order; a system without any is the same in each."""
    one, two = (cell.get("trainings") or [estimate(cell).mean] for cell in (ours, theirs))
    count = max(len(one), len(two))
    one, two = (values * count if len(values) == 1 else values for values in (one, two))
    changes = [a - b for a, b in zip(one, two, strict=True)] if len(one) == len(two) else []
    return paired_difference(ours["records"], theirs["records"], main_column(theirs), changes)


def shown(e: Estimate) -> str:
    interval = "" if math.isnan(e.low) else f" [{e.low:+.3f}, {e.high:+.3f}]"
    return f"{e.mean:+.3f}{interval}".replace("-", "−")


def _row(length: int, window: int, row: dict[str, Cell], systems: list[str], show: Any) -> list[str]:
    share = f"{length / window:g}"
    return [f"{length:,}", share, *(show(row[m]) if m in row else "–" for m in systems)]


def _table(rows: list[list[str]], systems: list[str]) -> str:
    head = ["context", "× window", *systems]
    lines = [head, ["--:"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
