"""Draws docs/overview.png, the picture of the README.

Run: python docs/make_overview.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, TEXT, FINE, COARSE = "#1f2d3d", "#5b6b7c", "#0b6e99", "#9fd0e0"
UPPER, LOWER, CROSS = "#f3ead7", "#e3eef3", "#e8a33d"


def box(ax, x, y, w, h, label, face, size=10, weight="normal"):
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.02,rounding_size=0.08", fc=face, ec=INK, lw=1))
    ax.text(x + w / 2, y + h / 2, label, ha="center", va="center", fontsize=size, color=INK, weight=weight)


def arrow(ax, start, end, color=INK):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, lw=1.3, color=color))


def chunk(ax, x, y, w):
    """One chunk, cut as the policy `right` does: 1/2, 1/4, 1/8, 1/8, each keeping fewer of its tokens the older it is."""
    at = x
    for share, stride in ((0.5, 16), (0.25, 8), (0.125, 4), (0.125, 4)):
        width = share * w
        ax.add_patch(Rectangle((at, y), width, 0.5, fc="white", ec=INK, lw=0.8))
        for i in range(4):
            mark = at + width * (i + 1) / 4 - width / 16
            ax.add_patch(
                Rectangle(
                    (mark - width / 32, y + 0.06), width / 16, 0.38, fc=FINE if stride == 4 else COARSE, ec="none"
                )
            )
        at += width


def main() -> None:
    fig, ax = plt.subplots(figsize=(11, 5.2), dpi=110)
    ax.set_xlim(0, 11.3)
    ax.set_ylim(0, 5.2)
    ax.axis("off")
    ax.text(0.2, 4.95, "context: any length, read once, chunk by chunk", fontsize=11, color=INK, weight="bold")
    ax.text(7.75, 4.95, "running text: one window", fontsize=11, color=INK, weight="bold")
    for i in range(3):
        chunk(ax, 0.2 + i * 2.3, 0.35, 2.05)
        arrow(ax, (1.22 + i * 2.3, 0.92), (1.22 + i * 2.3, 1.4))
        box(ax, 0.2 + i * 2.3, 1.42, 2.05, 0.62, "lower model\nbottom M layers", LOWER, 9)
        arrow(ax, (1.22 + i * 2.3, 2.1), (1.22 + i * 2.3, 2.68))
    ax.text(
        0.2, 0.08, "one context tree a chunk: near or relevant parts keep more of their tokens", fontsize=9, color=TEXT
    )
    box(ax, 0.2, 2.7, 6.65, 0.62, "memory: keys and values of the kept tokens, by layer and chunk", "white", 10, "bold")
    for i in range(3):
        for j in range(16):
            ax.add_patch(
                Rectangle((0.3 + i * 2.3 + j * 0.122, 3.42), 0.09, 0.3, fc=FINE if j >= 8 else COARSE, ec="none")
            )
        ax.text(1.28 + i * 2.3, 3.82, f"chunk {i}", fontsize=9, color=TEXT, ha="center")
    ax.text(0.2, 4.25, "saved · opened · appended · asked many times", fontsize=9.5, color=TEXT, style="italic")
    ax.add_patch(Rectangle((7.75, 0.35), 3.0, 0.5, fc="white", ec=INK, lw=0.8))
    ax.text(9.25, 0.6, "… the end of the text", ha="center", va="center", fontsize=9, color=INK)
    arrow(ax, (9.25, 0.92), (9.25, 1.26))
    ax.add_patch(
        FancyBboxPatch((7.75, 1.3), 3.0, 3.1, boxstyle="round,pad=0.02,rounding_size=0.08", fc=UPPER, ec=INK, lw=1)
    )
    for y, label, face in ((1.42, "self-attention", "white"), (1.92, "cross-attention", CROSS), (2.42, "MLP", "white")):
        box(ax, 7.95, y, 2.6, 0.36, label, face, 9)
    ax.text(10.9, 2.1, "× M", fontsize=9, color=INK, va="center", ha="left")
    box(ax, 7.95, 3.05, 2.6, 0.5, "the other layers, unchanged", "white", 9)
    ax.text(9.25, 4.05, "upper model: the whole LLM", fontsize=10, ha="center", va="center", color=INK, weight="bold")
    arrow(ax, (6.9, 3.0), (7.92, 2.12), CROSS)
    arrow(ax, (9.25, 4.45), (9.25, 4.78))
    fig.savefig(Path(__file__).with_name("overview.png"), bbox_inches="tight")


if __name__ == "__main__":
    main()
