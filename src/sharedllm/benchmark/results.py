"""The file of a run: written whole after every measurement, so that a run goes on where it stopped."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..hardware import command_line

FILE = "bench.json"
OOM = "OOM"
DONE = "measured"
PEAK_ONLY = "peak memory only"

# A contender at a length: `contender`, `length`, `status`, `runs` with seconds of each part, and what was counted.
Cell = dict[str, Any]


@dataclass
class Results:
    """about: what decides the numbers. sessions: command and peaks of each start. cells: see `Cell`."""

    path: Path
    about: dict[str, Any]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, about: dict[str, Any], peaks: dict[str, float]) -> "Results":
        """New results, or those of the folder, to go on with.

        Raises:
            ValueError: the folder holds results of other settings, versions or hardware; names what differs.
        """
        about = json.loads(json.dumps(about))
        results = cls(folder / FILE, about)
        if results.path.is_file():
            results = cls.load(folder)
            changed = [key for key in about if results.about.get(key) != about[key]]
            if changed:
                raise ValueError(f"{folder} holds another run, by {', '.join(changed)}: name another folder.")
        results.sessions.append({"command": command_line(), "peak_operations": peaks})
        results.save()
        return results

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """The results of a folder.

        Raises:
            ValueError: there are none.
        """
        path = folder / FILE
        try:
            return cls(path, **json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            raise ValueError(f"{folder} holds no results: name a folder that `sharedllm bench` made.") from None

    def cell(self, contender: str, length: int) -> Cell:
        """What is known of a contender at a length."""
        for cell in self.cells:
            if (cell["contender"], cell["length"]) == (contender, length):
                return cell
        self.cells.append({"contender": contender, "length": length, "status": "", "runs": []})
        return self.cells[-1]

    def of(self, contender: str) -> list[Cell]:
        """All cells of a contender, by length."""
        return sorted((c for c in self.cells if c["contender"] == contender), key=lambda cell: cell["length"])

    def save(self) -> None:
        content = {"about": self.about, "sessions": self.sessions, "cells": self.cells}
        write_text(self.path, json.dumps(content, indent=1))
