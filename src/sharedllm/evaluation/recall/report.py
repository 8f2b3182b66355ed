"""Table and heat map of recall, from the files of `run` alone."""

from pathlib import Path
from typing import Any

from ...utils.drawing import pyplot
from ...utils.files import write_text
from ..statistics import share_over_groups
from .ask import AS_TEXT, WINDOW
from .forms import FORMS, LEAD
from .results import NAME, Cell, Cells, load, save

NAMES = {
    "tree": "the paper's tree, by cosine",
    WINDOW: "BM25 into the base's window",
    "oracle": "oracle",
}


def named(policy: str) -> str:
    """A policy's name in reports."""
    if policy.endswith(AS_TEXT):
        return f"{named(policy.removesuffix(AS_TEXT))}, as text in the window"
    return NAMES.get(policy, policy)


def write_report(folder: Path) -> list[Path]:
    """Write report.md, recall.png and cells.json to the folder; returns the files."""
    cells, run = load(folder)
    write_text(folder / "report.md", markdown(cells, run))
    return [folder / "report.md", draw(cells, folder / "recall.png"), save(cells, run, folder / NAME)]


def markdown(cells: Cells, run: dict[str, Any]) -> str:
    """The report: what was asked, and a table per kind of question."""
    about = run["about"]
    counts = {length: len(cell.right) for row in cells.values() for length, cell in row.items()}
    asked = "questions per cell: " + ", ".join(f"{counts[n]} of {n:,} tokens" for n in sorted(counts))
    lines = [
        "# Recall by length, budget and policy",
        "",
        *(f"    {' '.join(command)}" for command in run["commands"]),
        "",
        f"{_counted(about.get('asked', LEAD))}; for several values also "
        "the share named in any order; 95 % intervals over texts (Wilson's for as many independent questions as have the same "
        f"variance; none where there is one text). Each text of {about['data']['domain']} "
        f"holds {about['per_text']} facts of each kind, is read once, and is asked about each of them; {asked}; "
        f"seed {about['seed']}. Keys, and one of the five phrasings, were never trained on.",
        "",
    ]
    for kind in dict.fromkeys(k for k, _, _ in cells):
        rows = {(p, b): row for (k, p, b), row in cells.items() if k == kind}
        lengths = sorted({length for row in rows.values() for length in row})
        lines += [f"## {kind}", "", f"| policy | budget | {' | '.join(f'{n:,}' for n in lengths)} |"]
        lines += ["|---|--:|" + "--:|" * len(lengths)]
        for (policy, budget), row in sorted(rows.items(), key=lambda item: (item[0][1] or 0, item[0][0])):
            size = f"{budget:,}" if budget is not None else "–"
            values = " | ".join(_cell(row.get(length), about["per_text"]) for length in lengths)
            lines.append(f"| {named(policy)} | {size} | {values} |")
        lines.append("")
    most = {p: max(max(c.read) for c in row.values()) for (_, p, b), row in cells.items() if b is None}
    lines += [f"{named(policy)} reads up to {read:,} tokens." for policy, read in sorted(most.items())]
    return "\n".join(lines) + "\n"


def _counted(asked: str) -> str:
    """What was asked, and which answers are right."""
    if asked == LEAD:
        return "Share of answers in which every token is right (several values: in the order of the text)"
    return f"Asked: {FORMS[asked]}. Share of answers that name the value (several values: all of them)"


def draw(cells: Cells, path: Path) -> Path:
    """One panel per kind: policies and budgets as rows, lengths as columns, the share of right answers as colour."""
    plt = pyplot()
    kinds = list(dict.fromkeys(k for k, _, _ in cells))
    rows = sorted({(p, b) for _, p, b in cells}, key=lambda row: (row[1] or 0, row[0]))
    lengths = sorted({length for row in cells.values() for length in row})
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.2 + 2.6 * len(kinds), 1.2 + 0.3 * len(rows)), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax, kind in zip(axes[0], kinds, strict=True):
        shares = [
            [_mean(cells.get((kind, policy, budget), {}).get(length)) for length in lengths] for policy, budget in rows
        ]
        image = ax.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                if share == share:
                    color = "white" if share < 0.5 else "black"
                    ax.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=7, color=color)
        ax.set_xticks(range(len(lengths)), [_short(n) for n in lengths])
        ax.set(title=kind, xlabel="tokens of the text")
    labels = [named(p) + (f", {_short(b)}" if b is not None else "") for p, b in rows]
    axes[0][0].set_yticks(range(len(rows)), labels)
    figure.colorbar(image, ax=axes[0][-1], label="share right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _cell(cell: Cell | None, per_text: int) -> str:
    """A share with its interval. Answers are in the order of the texts, `per_text` about each."""
    if cell is None:
        return "–"
    texts = {str(start): cell.right[start : start + per_text] for start in range(0, len(cell.right), per_text)}
    return share_over_groups(texts).percent


def _mean(cell: Cell | None) -> float:
    return sum(cell.right) / len(cell.right) if cell is not None else float("nan")


def _short(tokens: int) -> str:
    for unit, size in (("M", 2**20), ("K", 2**10)):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)
