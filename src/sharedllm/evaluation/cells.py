"""Cells of several runs as one index: by task, domain, length and system, trainings averaged and evaluation seeds pooled."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from ..memory.fingerprint import same_model
from ..systems import SYSTEMS
from ..utils.errors import UserError
from .results import Run
from .statistics import Estimate, by_document, over_documents, share_over_groups

Cell = dict[str, Any]
# (task, domain) → length → system → cell.
Index = dict[tuple[str, str], dict[int, dict[str, Cell]]]


@dataclass(frozen=True)
class _Measured:
    """A cell of one run. model: the identity of the model that its system needs. texts: what decides its texts."""

    model: Mapping[str, str]
    texts: Mapping[str, Any]
    cell: Cell

    def repeats(self, other: "_Measured") -> bool:
        return self.texts == other.texts and same_model(self.model, other.model)


def index(runs: Sequence[Run]) -> Index:
    """Cells of several runs by task, domain, length and system, systems in a fixed order.

    Cells of the same model with different evaluation seeds are pooled, see `_pooled`. Cells of the same texts and different
    models (trainings with other seeds) are averaged, see `_merged`. What several runs measured alike, such as the base's
    window beside each training, counts once.

    Raises:
        UserError: a run only repeats others, or with other results; or systems of a row were measured on different texts.
    """
    found: dict[tuple[str, str], dict[int, dict[str, list[_Measured]]]] = {}
    for run in runs:
        new = False
        for cell in run.cells:
            rows = found.setdefault((cell["task"], cell["domain"]), {})
            same = rows.setdefault(cell["length"], {}).setdefault(cell["system"], [])
            one = _Measured(_model_of(run, cell["system"]), _texts_of(run, cell["domain"]), cell)
            earlier = next((other for other in same if other.repeats(one)), None)
            if earlier is None:
                same.append(one)
                new = True
            elif not _alike(earlier.cell, cell):
                raise UserError(f"{run.name}: {_place(cell)} was measured before, with another result: leave one out.")
        if not new:
            raise UserError(f"{run.name} occurs twice: all of it is in another run, of the same models and seed.")
    made: Index = {}
    for key, rows in sorted(found.items()):
        made[key] = {}
        for length, row in sorted(rows.items()):
            _check_texts(row)
            made[key][length] = _in_order({system: _one(cells) for system, cells in row.items()})
    return made


def _model_of(run: Run, system: str) -> Mapping[str, str]:
    """The identity of the model that a system needs, without the name under which it was given."""
    kind, models = re.split("[:@]", system)[0], run.about["models"]
    entry = SYSTEMS.get(kind)
    role = kind if entry is None or entry.needs == "trained" else entry.needs
    if role in models:
        return {key: value for key, value in models[role].items() if key != "name"}
    # A system from outside the package: any of the models may be its own.
    return {"sha256": " ".join(sorted(model["sha256"] for model in models.values()))}


def _texts_of(run: Run, domain: str) -> dict[str, Any]:
    about = run.about
    return {key: about[key] for key in ("window", "longest", "seed")} | {"data": about["data"][domain]["digest"]}


def _place(cell: Cell) -> str:
    return f"{cell['task']}, {cell['domain']}, {cell['length']:,} tokens, {cell['system']}"


def _labels(cell: Cell) -> list[Cell]:
    return [{key: value for key, value in record.items() if key != "values"} for record in cell["records"]]


def _alike(one: Cell, other: Cell) -> bool:
    """Whether two cells are of the same texts and, but for rounding, have the same numbers."""
    if _labels(one) != _labels(other):
        return False
    values = ([list(record["values"].values()) for record in cell["records"]] for cell in (one, other))
    return bool(np.allclose(*(np.array(rows) for rows in values), atol=1e-3))


def _check_texts(row: dict[str, list[_Measured]]) -> None:
    """
    Raises:
        UserError: two systems or trainings of a row have different texts; names what differs.
    """
    by_seed: dict[int, _Measured] = {}
    seeds: dict[str, list[tuple[str, int]]] = {}
    for system, cells in row.items():
        for one in cells:
            first = by_seed.setdefault(one.texts["seed"], one)
            differ = [key for key in one.texts if one.texts[key] != first.texts[key]]
            if not differ and _labels(one.cell) != _labels(first.cell):
                differ = ["the number or places of texts"]
            if differ:
                of_two = f"{_place(first.cell)} and {_place(one.cell)}"
                raise UserError(f"{of_two} were measured on different texts ({', '.join(differ)}): report them apart.")
            seeds.setdefault(f"{system} {sorted(one.model.items())}", []).append((system, one.texts["seed"]))
    first, *others = seeds.values()
    for other in others:
        if {seed for _, seed in other} != {seed for _, seed in first}:
            of_two = " and ".join(f"{some[0][0]} with {_seeds(some)}" for some in (first, other))
            raise UserError(f"{_place(next(iter(row.values()))[0].cell)}: {of_two} were measured: use the same seeds.")


def _seeds(some: list[tuple[str, int]]) -> str:
    return "seed " + ", ".join(str(seed) for _, seed in sorted(some, key=lambda pair: pair[1]))


def _one(cells: list[_Measured]) -> Cell:
    """Combine the cells of several trainings and seeds into one."""
    by_model: list[list[_Measured]] = []
    for one in cells:
        group = next((group for group in by_model if same_model(group[0].model, one.model)), None)
        if group is None:
            by_model.append([one])
        else:
            group.append(one)
    return _merged([_pooled([(one.texts["seed"], one.cell) for one in group]) for group in by_model])


def _pooled(cells: list[tuple[int, Cell]]) -> Cell:
    """One cell with the texts of several evaluation seeds, in order; `seeds` holds the mean of each."""
    if len(cells) == 1:
        return cells[0][1]
    cells = sorted(cells, key=lambda pair: pair[0])
    records = [{"seed": seed} | record for seed, cell in cells for record in cell["records"]]
    return cells[0][1] | {"records": records, "seeds": [estimate(cell).mean for _, cell in cells]}


def _merged(cells: list[Cell]) -> Cell:
    """One cell whose values are means over several trainings of the same texts, text by text; `trainings` holds the mean of each."""
    first = cells[0]
    if len(cells) == 1:
        return first
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
