"""The answers of a measurement, from its files (one per text) or from `cells.json` (all in one file)."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...utils.errors import UserError
from ...utils.files import write_text

NAME = "cells.json"


@dataclass
class Cell:
    """Answers of one kind for one policy, budget and length: right or not (a share for several values), and tokens read."""

    right: list[float]
    read: list[int]


# (kind, policy, budget) → length → answers.
Cells = dict[tuple[str, str, int | None], dict[int, Cell]]


def load(folder: Path) -> tuple[Cells, dict[str, Any]]:
    """The cells of a folder and their origin: `about`, `commands`, `environments`.

    Raises:
        UserError: the folder holds no measurement, or a file can't be read; names it.
    """
    cells: Cells = defaultdict(dict)
    # By length and the number of a text: intervals group answers in this order.
    texts = sorted((folder / "texts").rglob("*.json"), key=lambda path: (path.parent.name, len(path.stem), path.stem))
    made: dict[str, Any] = {}
    try:
        if texts:
            made = json.loads((folder / "run.json").read_text(encoding="utf-8")) | {"environments": []}
            for path in texts:
                _add(cells, made["environments"], json.loads(path.read_text(encoding="utf-8")))
        elif (folder / NAME).is_file():
            made = json.loads((folder / NAME).read_text(encoding="utf-8"))
            for c in made.pop("cells"):
                cells[c["kind"], c["policy"], c["budget"]][c["length"]] = Cell(c["right"], c["read"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds a result that can't be read: {error!r}.") from None
    if not cells:
        raise UserError(f"{folder} holds no results: name a folder that `sharedllm recall` made.")
    return dict(cells), made


def save(cells: Cells, made: dict[str, Any], path: Path) -> Path:
    """Write the cells to one file, one line per cell."""
    lines = [
        json.dumps({"kind": kind, "policy": policy, "budget": budget, "length": length} | asdict(cell))
        for (kind, policy, budget), row in cells.items()
        for length, cell in row.items()
    ]
    write_text(path, f'{json.dumps(made)[:-1]}, "cells": [\n' + ",\n".join(lines) + "]}\n")
    return path


def _add(cells: Cells, environments: list[Any], content: dict[str, Any]) -> None:
    """The answers about one text."""
    if content["environment"] not in environments:
        environments.append(content["environment"])
    for answer in content["answers"]:
        row = cells[answer["kind"], answer["policy"], answer["budget"]]
        cell = row.setdefault(content["length"], Cell([], []))
        cell.right.append(float(answer["right"]))
        cell.read.append(answer["read"])
