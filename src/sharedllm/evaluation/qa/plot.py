"""Figures from the files of `run`: scores by length of the text, and the time of many questions about one text."""

from pathlib import Path

from ...systems import SYSTEMS
from ...utils.drawing import pyplot
from .report import Cell, Contender, estimate, load, named, total_seconds


def color_of(system: str) -> str | None:
    """The color of a system's curves; None for a system that is no longer in the registry."""
    entry = SYSTEMS.get(system.partition(":")[0])
    return entry.color if entry is not None else None


def draw(folder: Path) -> list[Path]:
    """Draw SET.png, scores by length, for each set, and CELL-seconds.png for each cell; returns the files.

    Raises:
        UserError: matplotlib is not installed, or the folder holds no results.
    """
    plt = pyplot()
    cells = load(folder)
    files = [_scores(plt, name, [c for c in cells if c.about["set"] == name], folder)
             for name in dict.fromkeys(cell.about["set"] for cell in cells)]  # fmt: skip
    return files + [_seconds(plt, cell, folder) for cell in cells if any(c.rows for c in cell.contenders)]


def _scores(plt, name: str, cells: list[Cell], folder: Path) -> Path:
    """The main score by length with its interval, one line for each system and budget."""
    metric = cells[0].about["metrics"][0]
    lines: dict[str, list[tuple[float, Contender]]] = {}
    for cell in cells:
        for c in cell.contenders:
            if c.rows:
                tokens = [row["tokens"] for row in c.rows.values()]
                lines.setdefault(named(c), []).append((sum(tokens) / len(tokens), c))
    figure, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for number, (label, points) in enumerate(lines.items()):
        found = [(x, estimate(list(c.rows.values()), metric)) for x, c in points]
        # Shift points of equal length next to one another.
        x = [tokens * (1 + 0.012 * number) for tokens, _ in found]
        bars = [[max(0, e.mean - e.low) for _, e in found], [max(0, e.high - e.mean) for _, e in found]]
        ax.errorbar(x, [e.mean for _, e in found], bars, fmt="o-", ms=4, lw=1.4, elinewidth=0.8, label=label,
                    color=color_of(points[0][1].system))  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set(xlabel="tokens of the text", ylabel=metric, title=name, ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, ncols=2, fontsize=8)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _seconds(plt, cell: Cell, folder: Path) -> Path:
    """Time of reading and all questions, by the number of questions about one text."""
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    counts = [1, 3, 10, 30, 100, 300, 1000]
    for c in cell.contenders:
        if c.rows:
            ax.plot(counts, [total_seconds(c, count) for count in counts], "-", label=named(c), lw=1.4,
                    color=color_of(c.system))  # fmt: skip
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="questions about one text",
        ylabel="seconds, reading included",
        title=cell.label,
    )
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8)
    path = folder / f"{cell.label}-seconds.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
