"""Draw the training curves of the tiny models from their logs.

Run: python runs/tiny/plot_curves.py runs/tiny/logs
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def series(path: Path, key: str) -> tuple[list[int], list[float]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    points = [(r["step"], r[key]) for r in records if key in r]
    return [p[0] for p in points], [p[1] for p in points]


def main() -> None:
    folder = Path(sys.argv[1])
    panels = {
        "base.jsonl": [
            ("loss (validation)", ["validation_books", "validation_code", "validation_proofs"]),
            ("recalled tokens inside the window", ["copy_64", "copy_512", "needles_128", "needles_512"]),
        ],
        "extended.jsonl": [
            ("loss of the last half window (validation books)", ["none", "other", "own_of_8", "own"]),
            ("recalled tokens through the memory", ["needles", "copy"]),
        ],
    }
    fig, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for row, (name, columns) in zip(axes, panels.items(), strict=True):
        for ax, (title, keys) in zip(row, columns, strict=True):
            for key in keys:
                ax.plot(*series(folder / name, key), marker=".", label=key)
            ax.set(title=f"{name.removesuffix('.jsonl')}: {title}", xlabel="step")
            ax.grid(alpha=0.3)
            ax.legend(frameon=False)
    fig.savefig(folder / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
