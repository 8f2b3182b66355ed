"""The figure of the demo: loss and needles by length, time and memory compared with full attention."""

from pathlib import Path

from ..utils.drawing import pyplot
from .asking import SYSTEMS

TRUE, OTHER, NONE, BASE = "#0b6e99", "#c8553d", "#7a8793", "#e8a33d"


def draw(result: dict, path: Path) -> None:
    """Draw the content of `demo.json`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    plt = pyplot()
    from matplotlib.ticker import PercentFormatter, ScalarFormatter

    window = result["model"]["window"]
    figure, ((left, middle), (time, memory)) = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")

    losses = result["losses"]
    lengths = [int(n) for n in losses["own"]]
    left.plot(lengths, losses["own"].values(), "o-", color=TRUE, label="its own context, compressed")
    left.plot(lengths, losses["other"].values(), "s--", color=OTHER, label="another text's context")
    left.axhline(losses["none"], color=NONE, label="no context")
    left.axhline(losses["base"], color=BASE, ls=":", label="base model, window alone")
    left.set(title="Loss of the same tokens", ylabel="nats a token", xlabel="tokens of context")
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.35 * (high - low))
    left.legend(frameon=False, fontsize=9, loc="upper right")

    cells = result["needles"]
    grid = [[cells[n][d] for n in cells] for d in next(iter(cells.values()))]
    image = middle.imshow(grid, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    middle.set_xticks(range(len(cells)), [_short(int(n)) for n in cells])
    depths = list(next(iter(cells.values())))
    middle.set_yticks(range(len(depths)), [f"{100 * float(d):.0f} %" for d in depths])
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            middle.text(x, y, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.5 else "black")
    middle.set(title="Needles found", xlabel="tokens of context", ylabel="depth (0 % is the oldest)")
    figure.colorbar(image, ax=middle, shrink=0.8, format=PercentFormatter(1))

    for ax, key, title, unit in ((time, "seconds", "Time", "seconds"), (memory, "peak_bytes", "Peak memory", "MB")):
        for name, color, label in (("sharedllm", TRUE, "SharedLLM"), ("full_attention", OTHER, "full attention")):
            points = result["costs"][name]
            values = [p[key] / (1e6 if unit == "MB" else 1) for p in points.values()]
            ax.plot([int(n) for n in points], values, "o-", color=color, label=label)
        ax.set(
            title=f"{title} of reading and scoring one window", ylabel=unit, xlabel="tokens of context", yscale="log"
        )
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.legend(frameon=False)

    for ax in (left, time, memory):
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths, [_short(n) for n in lengths])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    figure.suptitle(f"{result['text']['name']}: a model with a window of {window} tokens", fontsize=13)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_asked(result: dict, path: Path) -> None:
    """Draw the content of `demo.json` of a chat model: what was found by depth, and the time of a question and of reading.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    plt = pyplot()
    from matplotlib.ticker import PercentFormatter

    asked, full = result["asked"], result["full_attention"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=(1.25, 1))
    depths = list(next(iter(asked.values()))["found"])
    grid = [[row["found"][depth] for depth in depths] for row in asked.values()]
    image = left.imshow(grid, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    names = [SYSTEMS[name] for name in asked]
    left.set_yticks(range(len(names)), names)
    left.set_xticks(range(len(depths)), [f"{100 * float(d):.0f} %" for d in depths])
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            left.text(x, y, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.5 else "black")
    left.set(title=f"{result['questions']} facts asked for, found", xlabel="depth (0 % is the beginning)")
    figure.colorbar(image, ax=left, shrink=0.8, format=PercentFormatter(1))

    bars = [(f"a question: {SYSTEMS[name]}", row["seconds"], NONE) for name, row in asked.items()]
    bars.append(("reading the text into the memory", asked["sharedllm"]["prepare"], TRUE))
    if full["seconds"] is not None:
        bars.append(("reading it with full attention", full["seconds"], OTHER))
    labels, seconds, colors = zip(*reversed(bars), strict=True)
    drawn = right.barh(labels, seconds, color=colors)
    right.bar_label(drawn, [f"{value:.3g} s" for value in seconds], padding=4)
    right.set(title="Time", xlabel="seconds", xscale="log")
    right.margins(x=0.25)
    model, tokens = result["model"]["name"], result["text"]["tokens"]
    figure.suptitle(f"{result['text']['name']}: {tokens:,} tokens, asked of {model}", fontsize=13)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _short(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens >= 1024 else str(tokens)
