"""Draws cost.png: what so many questions about one text cost by how deep it was read, from the answers in cells-gpu.jsonl.

Run: python docs/real/make_figure.py
"""

from pathlib import Path

import matplotlib
from answered import EARLIER, found, score

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sharedllm.evaluation.qa.report import total_operations

COUNTS = [round(10 ** (n / 10)) for n in range(31)]
NAMES = {"nq": "search queries (NQ)", "keys-4": "four alike facts"}


def main() -> None:
    answers, metrics = found(EARLIER)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    for ax, (name, title) in zip(axes, NAMES.items(), strict=True):
        here = {key: c for key, c in answers.items() if key[0] == name and "sharedllm:bm25" in key[3]}
        text = next(c for key, c in here.items() if key[3].startswith("same-pieces-text:"))
        depths = sorted((int(key[2]), c) for key, c in here.items() if key[3] == "sharedllm:bm25")
        curves = [(0, text), *((depth, c) for depth, c in depths)]
        for (depth, c), shade in zip(curves, plt.get_cmap("viridis")([0.0, 0.25, 0.5, 0.7, 0.9]), strict=True):
            totals = [total_operations(c, n) for n in COUNTS]
            label = f"M = {depth}: {score(c, metrics[name])} % of {len(c.rows)}"
            ax.plot(COUNTS, totals, color=shade, lw=1.8, label=label)
        ax.set(xscale="log", yscale="log", title=f"{title}, 32K tokens", xlabel="questions about the text")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, title="right answers", fontsize=9)
    axes[0].set_ylabel("operations, reading included, 10¹²")
    figure.savefig(Path(__file__).parent / "cost.png", dpi=110)


if __name__ == "__main__":
    main()
