"""The log of a run: one JSON object per line in log.jsonl, the same numbers for TensorBoard, and a short line on the
console."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ..utils.errors import UserError
from ..utils.files import write_text


class Log:
    """Appends to `folder`/log.jsonl; after a restart the lines after the checkpoint are dropped.

    Args:
        step: the step from which the run resumes.
        tensorboard: also write events to `folder`/tensorboard.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False, console: Console | None = None):
        self.path, self.console, self.writer = folder / "log.jsonl", console, None
        kept = [r for r in read_log(self.path) if r.get("step", -1) < step] if step else []
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = self.path.open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("tensorboard is not installed: pip install 'sharedllm[train]'.") from None
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, **values: Any) -> None:
        """Log the values of one step, including `step`. Dicts are groups."""
        record = {key: _rounded(value) for key, value in values.items()}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.console is not None:
            self.console.print("  ".join(_words(record)), highlight=False, soft_wrap=True)
        if self.writer is not None and "step" in record:
            for name, number in _flat(record):
                if name != "step":
                    self.writer.add_scalar(name, number, record["step"])

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a log; a line truncated by a kill is left out."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    numbers = []
    for key, value in record.items():
        if isinstance(value, dict):
            numbers += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            numbers.append((f"{prefix}{key}", value))
    return numbers


def _words(record: dict[str, Any]) -> list[str]:
    words = []
    for key, value in record.items():
        if isinstance(value, dict):
            words.append(f"{key} " + " ".join(f"{k} {_short(v)}" for k, v in value.items()))
        else:
            words.append(f"{key} {_short(value)}")
    return words


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 0.1 or abs(value) >= 1000 else f"{value:.3f}"
    return "[" + " ".join(map(_short, value)) + "]" if isinstance(value, list) else str(value)
