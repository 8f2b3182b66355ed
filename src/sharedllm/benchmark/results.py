"""The file of a run, rewritten after every measurement, so that a run resumes where it stopped."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.hardware import command_line, peak_operations

FILE = "bench.json"
OOM = "OOM"
DONE = "measured"
PEAK_ONLY = "peak memory only"

# A system at a length: `system`, `length`, `status`, `runs` with seconds of each part, and counts.
Cell = dict[str, Any]


@dataclass
class Results:
    """about: everything that decides the numbers. sessions: command and peak rates of each start. cells: see `Cell`."""

    path: Path
    about: dict[str, Any]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, about: dict[str, Any]) -> "Results":
        """New results, or those in the folder, to continue.

        Raises:
            UserError: the folder holds results with other settings, versions or hardware; names the differences.
        """
        about = json.loads(json.dumps(about))
        results = cls(folder / FILE, about)
        if results.path.is_file():
            results = cls.load(folder)
            changed = [key for key in about if results.about.get(key) != about[key]]
            if changed:
                raise UserError(
                    f"{folder} holds another run, which differs in {', '.join(changed)}: name another folder."
                )
        results.sessions.append({"command": command_line(), "peak_operations": {}})
        results.save()
        return results

    def see_peaks(self, device: torch.device, dtypes: Mapping[str, torch.dtype]) -> None:
        """Time a matrix product again. The fastest counts, because other load can only slow it down."""
        peaks = self.sessions[-1]["peak_operations"]
        for name, dtype in dtypes.items():
            peaks[name] = max(peaks.get(name, 0.0), peak_operations(device, dtype))

    def peak(self, dtype: str) -> float:
        """Operations per second of the fastest matrix product over all starts, which use the same hardware."""
        return max(session["peak_operations"].get(dtype, 0.0) for session in self.sessions)

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """The results of a folder.

        Raises:
            UserError: there are no results.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            # The old word for a system.
            for cell in content["cells"]:
                if "contender" in cell:
                    cell["system"] = cell.pop("contender")
            return cls(path, **content)
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{folder} holds no results: name a folder that `sharedllm bench` made.") from None

    def cell(self, system: str, length: int) -> Cell:
        """The cell of a system at a length."""
        for cell in self.cells:
            if (cell["system"], cell["length"]) == (system, length):
                return cell
        self.cells.append({"system": system, "length": length, "status": "", "runs": []})
        return self.cells[-1]

    def of(self, system: str) -> list[Cell]:
        """All cells of a system, by length."""
        return sorted((c for c in self.cells if c["system"] == system), key=lambda cell: cell["length"])

    def save(self) -> None:
        content = {"about": self.about, "sessions": self.sessions, "cells": self.cells}
        write_text(self.path, json.dumps(content, indent=1))
