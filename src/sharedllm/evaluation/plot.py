"""Figures from the cells of evaluations: loss by length, accuracy by length, and a map of needles by depth."""

from pathlib import Path

import numpy as np

from ..systems import SYSTEMS
from ..utils.drawing import pyplot
from .cells import Cell, Index, estimate, main_column


def draw(cells: Index, window: int, folder: Path) -> list[Path]:
    """Draw one figure for each task and domain, and a map for tasks with depths; returns the files.

    Raises:
        UserError: matplotlib is not installed.
    """
    plt = pyplot()
    files = []
    for (task, domain), rows in cells.items():
        figure, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
        systems = list(dict.fromkeys(m for row in rows.values() for m in row))
        for system in systems:
            points = [(length, estimate(row[system])) for length, row in rows.items() if system in row]
            x = [max(length / window, 1 / 8) for length, _ in points]
            color = SYSTEMS[system].color if system in SYSTEMS else None
            ax.plot(x, [e.mean for _, e in points], "o-", color=color, label=system, ms=4)
            for length, row in rows.items():
                # The seeds of the evaluation, one by one.
                means = row.get(system, {}).get("seeds", [])
                ax.plot([max(length / window, 1 / 8)] * len(means), means, ".", color=color, alpha=0.4, ms=4)
            # Intervals of losses come from the documents, which all systems share, so only differences get a band.
            if next(iter(rows.values()))[systems[0]]["accuracy"]:
                ax.fill_between(x, [e.low for _, e in points], [e.high for _, e in points], color=color, alpha=0.12)
        first = next(iter(next(iter(rows.values())).values()))
        ax.set_xscale("log", base=2)
        ax.set(xlabel="tokens in front, in windows", ylabel=main_column(first), title=f"{task}, {domain}")
        if not first["accuracy"]:
            _limit(ax, rows)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, ncols=3, fontsize=9)
        files.append(folder / f"{task}-{domain}.png")
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
        if "depth" in first["records"][0]:
            files += _maps(plt, task, domain, rows, systems, window, folder)
    return files


def _limit(ax, rows: dict[int, dict[str, Cell]]) -> None:
    """Keep failing systems from squeezing the others: the axis ends a little above the highest value of the window."""
    means = {m: [estimate(row[m]).mean for row in rows.values() if m in row] for row in rows.values() for m in row}
    reference = means.get("window") or means.get("sharedllm") or next(iter(means.values()))
    low, high = min(min(v) for v in means.values()), max(reference)
    ax.set_ylim(low - 0.1 * (high - low) - 0.01, high + 0.25 * (high - low) + 0.01)


def _maps(plt, task: str, domain: str, rows: dict, systems: list[str], window: int, folder: Path) -> list[Path]:
    """Accuracy by depth and length, one map per system."""
    figure, axes = plt.subplots(
        1, len(systems), figsize=(2.2 + 2.4 * len(systems), 3.6), layout="constrained", squeeze=False, sharey=True
    )
    lengths, image = list(rows), None
    for ax, system in zip(axes[0], systems, strict=True):
        depths = sorted({r["depth"] for row in rows.values() if system in row for r in row[system]["records"]})
        grid = np.full((len(depths), len(lengths)), np.nan)
        for column, length in enumerate(lengths):
            for line, depth in enumerate(depths):
                found = [
                    r["values"]["accuracy"]
                    for r in rows[length].get(system, {"records": []})["records"]
                    if r["depth"] == depth
                ]
                if found:
                    grid[line, column] = np.mean(found)
        image = ax.imshow(grid, aspect="auto", vmin=0, vmax=1, cmap="viridis")
        ax.set(title=system, xlabel="windows")
        ax.set_xticks(range(len(lengths)), [f"{n / window:g}" for n in lengths], fontsize=8)
        ax.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths], fontsize=8)
    axes[0][0].set_ylabel("depth (100 % is the end)")
    figure.colorbar(image, ax=axes[0].tolist(), label="accuracy")
    figure.suptitle(f"{task}, {domain}")
    path = folder / f"{task}-{domain}-map.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return [path]
