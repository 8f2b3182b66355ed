"""`cells.json`: the results of one or several folders in one file, from which their report can be made again.

An evaluation writes a file for each cell, so that it can resume. This one file, with a line for each run and each cell,
is kept with the report:

    {"runs": [
    {"name": …, "about": …, "command": …, "left_out": …, "environment": …, "cells": [
    {"task": …, "domain": …, …, "records": […]},
    …]}]}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from ..utils.files import write_text
from .run import load_about, load_cells, renamed

NAME = "cells.json"


@dataclass(frozen=True)
class Run:
    """One run of an evaluation. about: everything that decided its numbers; note: its origin (command, skipped cells)."""

    name: str
    about: dict[str, Any]
    note: dict[str, Any]
    cells: list[dict[str, Any]]


def load_runs(path: Path) -> list[Run]:
    """Load runs from a folder of `sharedllm eval`, a `cells.json`, or a folder that holds one.

    Raises:
        UserError: there are no results, or a file can't be read; names it.
    """
    if (path / "run.json").is_file():
        about, cells = load_about(path), load_cells(path)
        note = {k: v for k, v in json.loads((path / "run.json").read_text(encoding="utf-8")).items() if k != "about"}
        return [Run(path.resolve().name, about, note, cells)]
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} holds no results: name a folder that `sharedllm eval` made, or a {NAME}.")
    try:
        return [_run(content) for content in json.loads(file.read_text(encoding="utf-8"))["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a {NAME} of `sharedllm report`: {error!r}.") from None


def _run(content: dict[str, Any]) -> Run:
    note = {k: v for k, v in content.items() if k not in ("name", "about", "environment", "cells")}
    cells = [{"environment": content["environment"]} | renamed(cell) for cell in content["cells"]]
    return Run(content["name"], content["about"], note, cells)


def save_runs(runs: Sequence[Run], path: Path) -> Path:
    """Write runs to one file. An environment shared by all cells of a run is stored once."""
    lines = []
    for run in runs:
        shared = run.cells[0]["environment"]
        head = _json({"name": run.name, "about": run.about} | run.note | {"environment": shared})
        cells = [_json({k: v for k, v in cell.items() if k != "environment" or v != shared}) for cell in run.cells]
        lines.append(f'{head[:-1]}, "cells": [\n' + ",\n".join(cells) + "]}")
    write_text(path, '{"runs": [\n' + ",\n".join(lines) + "]}\n")
    return path


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
