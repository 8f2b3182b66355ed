"""Tables made only from the cells of evaluations."""

import math
import re
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from ..systems import SYSTEMS
from ..utils.errors import UserError
from .results import Run
from .statistics import Estimate, by_document, holm, over_documents, paired_difference, share_over_groups
from .tasks.mentions import GROUPS

Cell = dict[str, Any]
# (task, domain) → length → system → cell.
Index = dict[tuple[str, str], dict[int, dict[str, Cell]]]


def index(runs: Sequence[Run]) -> Index:
    """Cells of several runs by task, domain, length and system, systems in a fixed order.

    Cells of the same models with different evaluation seeds are pooled, see `_pooled`. Cells of the same texts and
    different models (trainings with other seeds) are averaged, see `_merged`.

    Raises:
        UserError: two runs hold the same cell of the same models and seed.
    """
    found: dict[tuple[str, str], dict[int, dict[str, list[tuple[Any, int, Cell]]]]] = {}
    for run in runs:
        models, seed = run.about["models"], run.about["seed"]
        for cell in run.cells:
            rows = found.setdefault((cell["task"], cell["domain"]), {})
            same = rows.setdefault(cell["length"], {}).setdefault(cell["system"], [])
            if any(known == models and before == seed for known, before, _ in same):
                raise UserError(f"{run.name}: {cell['task']}, {cell['domain']}, {cell['system']} occurs twice.")
            same.append((models, seed, cell))
    return {
        key: {n: _in_order({m: _one(cells) for m, cells in row.items()}) for n, row in sorted(rows.items())}
        for key, rows in sorted(found.items())
    }


def _one(cells: list[tuple[Any, int, Cell]]) -> Cell:
    """Combine the cells of several trainings and seeds into one."""
    by_models: list[tuple[Any, list[tuple[int, Cell]]]] = []
    for models, seed, cell in cells:
        group = next((group for known, group in by_models if known == models), None)
        if group is None:
            by_models.append((models, group := []))
        group.append((seed, cell))
    return _merged([_pooled(group) for _, group in by_models])


def _pooled(cells: list[tuple[int, Cell]]) -> Cell:
    """One cell with the texts of several evaluation seeds, in order; `seeds` holds the mean of each."""
    if len(cells) == 1:
        return cells[0][1]
    cells = sorted(cells, key=lambda pair: pair[0])
    records = [{"seed": seed} | record for seed, cell in cells for record in cell["records"]]
    return cells[0][1] | {"records": records, "seeds": [estimate(cell).mean for _, cell in cells]}


def _merged(cells: list[Cell]) -> Cell:
    """One cell whose values are means over several trainings, text by text; `trainings` holds the mean of each.

    Raises:
        UserError: the cells are of different texts.
    """
    first = cells[0]
    if len(cells) == 1:
        return first
    for cell in cells[1:]:
        # Raises if the texts differ.
        paired_difference(first["records"], cell["records"], main_column(first))
    records = [
        same[0] | {"values": {k: mean(r["values"][k] for r in same) for k in same[0]["values"]}}
        for same in zip(*(cell["records"] for cell in cells), strict=True)
    ]
    return first | {"records": records, "trainings": [estimate(cell).mean for cell in cells]}


def _in_order(row: dict[str, Cell]) -> dict[str, Cell]:
    """A row in the order of the registry; unknown systems come last."""
    places = {name: place for place, name in enumerate(SYSTEMS)}
    return dict(sorted(row.items(), key=lambda item: (places.get(re.split("[:@]", item[0])[0], len(places)), item[0])))


def main_column(cell: Cell) -> str:
    return next(iter(cell["records"][0]["values"]))


def estimate(cell: Cell, column: str | None = None) -> Estimate:
    """A cell's number with its interval."""
    column = column or main_column(cell)
    if cell["accuracy"]:
        return share_over_groups(by_document(cell["records"], column))
    return over_documents(by_document(cell["records"], column), cell.get("trainings", ()))


def markdown(cells: Index, window: int, ours: str = "sharedllm") -> str:
    """One table for each task and domain, with systems side by side; for losses, paired differences between ours and
    each other."""
    parts = []
    for (task, domain), rows in cells.items():
        systems = list(dict.fromkeys(system for row in rows.values() for system in row))
        first = next(iter(next(iter(rows.values())).values()))
        targets = len(first["records"])
        trained = len(first.get("trainings", [0]))
        several = f", means of {trained} trainings ± their standard deviation" if trained > 1 else ""
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
    spread = f" ± {stdev(cell['trainings']):.3f}" if "trainings" in cell else ""
    return e.percent if cell["accuracy"] else f"{e.mean:.3f}{spread}"


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
