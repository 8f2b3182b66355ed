"""Medians with their spread, ratios to SharedLLM, utilisation and exponents, as rows and as a table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..utils.text_files import some
from .fit import Fit, fit
from .measure import PARTS
from .results import DONE, Cell, Results

# The system to which × refers.
OURS = "sharedllm"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [*values]
        return cls(median, low, high)

    def map(self, function: Callable[[float], float]) -> "Spread":
        """Convert to another unit; a decreasing function swaps the quartiles."""
        low, high = sorted((function(self.low), function(self.high)))
        return Spread(function(self.median), low, high)


@dataclass(frozen=True)
class Row:
    """A system at a length; there are no numbers unless `status` is "measured".

    seconds      for read, first, decode and total
    rate         tokens decoded per second
    left         this rate divided by the system's rate at its shortest length
    ratio        total divided by SharedLLM's in the same round
    peak_bytes   above weights
    memory_bytes kept of the context until a question comes
    utilisation  for read, first and total: counted operations per second, divided by those of the fastest matrix product
    """

    system: str
    length: int
    status: str
    seconds: dict[str, Spread]
    rate: Spread | None = None
    left: float | None = None
    ratio: Spread | None = None
    peak_bytes: int | None = None
    memory_bytes: int | None = None
    utilisation: dict[str, float] | None = None


def rows(results: Results) -> list[Row]:
    """All rows, by length, then in the order of the run."""
    order = list(dict.fromkeys(cell["system"] for cell in results.cells))
    cells = sorted(results.cells, key=lambda c: (c["length"], order.index(c["system"])))
    ours = {c["length"]: c for c in cells if c["system"] == OURS and c["status"] == DONE}
    table, shortest = [_row(results, cell, ours.get(cell["length"])) for cell in cells], {}
    for row in table:
        if row.rate is not None:
            shortest.setdefault(row.system, row.rate.median)
    return [row if row.rate is None else replace(row, left=row.rate.median / shortest[row.system]) for row in table]


def exponents(table: Sequence[Row]) -> dict[str, dict[str, Fit]]:
    """Exponents of reading time, total time and peak memory for each system measured at two lengths or more."""
    fits: dict[str, dict[str, Fit]] = {}
    for name in dict.fromkeys(row.system for row in table):
        mine = [row for row in table if row.system == name]
        for what, values in (
            ("read", [(r.length, r.seconds["read"].median) for r in mine if "read" in (r.utilisation or {})]),
            ("total", [(r.length, r.seconds["total"].median) for r in mine if r.status == DONE]),
            ("peak_bytes", [(r.length, r.peak_bytes) for r in mine if r.peak_bytes]),
        ):
            if len(values) > 1:
                fits.setdefault(name, {})[what] = fit([n for n, _ in values], [float(v) for _, v in values])
    return fits


def markdown(results: Results) -> str:
    """A table of all lengths, a table of exponents, and the setting of the measurement."""
    about, table = results.about, rows(results)
    shape, machine = about["shape"], about["environment"]
    running = about.get("running") or shape["window"] - about["new_tokens"]
    lines = [
        f"# `sharedllm bench`, {shape['name']}, {about['dtype']}",
        "",
        "Medians of alternating runs, with quartiles. Times: reading the context, the first token after the running text "
        f"({running:,} tokens), and in total with {about['new_tokens']} more tokens. × is the total divided by SharedLLM's in the "
        "same round. Peak: memory above weights. Left: decoding rate divided by the rate at the system's shortest length. Kept: "
        "bytes kept until questions come. MFU: necessary operations per second, as a share of the fastest matrix product's in "
        "the same run.",
        "",
        "| tokens | system | read, s | first, s | decode, tokens/s | left | total, s | × | peak, MB | kept, MB | MFU read | MFU |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table:
        head = f"| {row.length:,} | {row.system} |"
        if row.status != DONE:
            lines.append(f"{head} {row.status} |" + " |" * 5 + f" {_megabytes(row.peak_bytes)} |" + " |" * 3)
            continue
        used = row.utilisation or {}
        values = [
            *(_spread(row.seconds[part]) for part in ("read", "first")),
            _spread(row.rate),
            "–" if row.left is None else f"{row.left:.2f}",
            _spread(row.seconds["total"]),
            _spread(row.ratio),
            _megabytes(row.peak_bytes),
            _megabytes(row.memory_bytes),
            *(f"{used[part]:.0%}" if part in used else "–" for part in ("read", "total")),
        ]
        lines.append(f"{head} {' | '.join(values)} |")
    if growth := exponents(table):
        lines += [
            "",
            "Growth with length as a power (1 is linear), with standard errors:",
            "",
            "| system | read | total | peak memory |",
            "|---|--:|--:|--:|",
        ]
        for name, fits in growth.items():
            lines.append(f"| {name} | {' | '.join(_fit(fits.get(what)) for what in ('read', 'total', 'peak_bytes'))} |")
    peaks = ", ".join(
        f"{name} {results.peak(name) / 1e12:.3g} TFLOP/s" for name in results.sessions[0]["peak_operations"]
    )
    lines += [
        "",
        f"Matrix products: {peaks}. {machine['gpu'] if about['device'] != 'cpu' else machine['cpu']}, "
        f"{some(machine['threads'], 'thread')}, torch {machine['torch']}, transformers {machine['transformers']}, "
        f"sharedllm {machine['sharedllm']}, seed {about['seed']}.",
    ]
    return "\n".join(lines) + "\n"


def _ratios(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[float]:
    """Times of runs in those of others of the same round: the same place in the same session, as the machine may differ from
    one session to the next."""
    pairs = []
    for session in dict.fromkeys(run.get("session") for run in runs):
        mine, theirs = ([_total(run) for run in some if run.get("session") == session] for some in (runs, others))
        pairs += [a / b for a, b in zip(mine, theirs, strict=False)]
    return pairs


def _row(results: Results, cell: Cell, ours: Cell | None) -> Row:
    name, length, runs = cell["system"], cell["length"], cell["runs"]
    if cell["status"] != DONE:
        return Row(name, length, cell["status"], {}, peak_bytes=cell.get("peak_bytes"))
    seconds = {part: Spread.of([run[part] for run in runs]) for part in PARTS}
    totals = [_total(run) for run in runs]
    seconds["total"] = Spread.of(totals)
    ratios = _ratios(runs, ours["runs"]) if ours else []
    operations = cell["operations"] | {"total": sum(cell["operations"].values())}
    peak, new_tokens = results.peak(results.about["dtype"]), results.about["new_tokens"]
    return Row(
        name,
        length,
        cell["status"],
        seconds,
        rate=seconds["decode"].map(lambda s: new_tokens / s) if new_tokens else None,
        ratio=Spread.of(ratios) if ratios else None,
        peak_bytes=cell.get("peak_bytes"),
        memory_bytes=cell.get("memory_bytes"),
        utilisation={
            part: operations[part] / seconds[part].median / peak
            for part in ("read", "first", "total")
            if operations[part]
        },
    )


def _total(run: dict[str, Any]) -> float:
    return sum(run[part] for part in PARTS)


def _spread(value: Spread | None) -> str:
    return "–" if value is None else f"{value.median:.3g} ({value.low:.3g}–{value.high:.3g})"


def _megabytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:,.1f}"


def _fit(value: Fit | None) -> str:
    if value is None:
        return "–"
    return f"{value.exponent:.2f}" + ("" if value.error is None else f" ± {value.error:.2f}")
