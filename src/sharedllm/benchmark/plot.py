"""Figures of a run: time by length, and peak memory by length."""

from collections.abc import Sequence
from pathlib import Path

from ..systems import SYSTEMS
from ..utils.drawing import pyplot
from .report import Row
from .results import DONE, OOM


def draw(table: Sequence[Row], title: str, folder: Path) -> list[Path]:
    """Draw memory.png and, if anything was timed, time.png, with logarithmic axes; returns the files.

    Raises:
        UserError: matplotlib is not installed.
    """
    plt = pyplot()
    files = []
    figures = [("time", "seconds: read, first token, decode")] if any(row.status == DONE for row in table) else []
    if any(row.peak_bytes for row in table):
        figures.append(("memory", "peak memory above weights, MB"))
    for name, label in figures:
        figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
        for system in dict.fromkeys(row.system for row in table):
            mine, color = (
                [row for row in table if row.system == system],
                SYSTEMS[system].color if system in SYSTEMS else None,
            )
            if name == "time":
                mine = [row for row in mine if row.status == DONE]
                x, y = [row.length for row in mine], [row.seconds["total"].median for row in mine]
                low, high = ([getattr(row.seconds["total"], end) for row in mine] for end in ("low", "high"))
                ax.fill_between(x, low, high, color=color, alpha=0.15)
            else:
                known = [(row.length, row.peak_bytes / 1e6) for row in mine if row.peak_bytes]
                x, y = [n for n, _ in known], [value for _, value in known]
            full = [row.length for row in table if row.system == system and row.status == OOM]
            ax.plot(x, y, "o-", color=color, label=system + (f" (OOM at {min(full):,})" if full else ""), ms=4)
        ax.set_xscale("log", base=2)
        lengths = sorted({row.length for row in table})
        ax.set_xticks(lengths, [f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}" for length in lengths])
        ax.minorticks_off()
        ax.set_yscale("log")
        ax.set(xlabel="tokens before the window", ylabel=label, title=title)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
    return files
