"""Fills in tables of pages from the results in this folder. Run: python docs/bench/make_tables.py

In a page `<!-- bench: FOLDER SYSTEM LENGTH,… -->` up to `<!-- end -->` is such a table; ratios are to SYSTEM, in one run.
`<!-- serve: FOLDER -->` is the table of a server by clients, `<!-- tree -->` that of tree.json.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from sharedllm.benchmark.report import Row, rows
from sharedllm.benchmark.results import DONE, Results
from sharedllm.benchmark.serve import loaded
from sharedllm.benchmark.serve_report import table as by_clients

HERE = Path(__file__).parent
PAGES = [HERE.parent / name for name in ("results.md", "real/README.md", "serving.md", "paper.md")]
NAMES = {
    "sharedllm": "sharedllm, every {} token kept",
    "budget": "every token kept, a question selects",
    "focus": "every token kept, a question's words select",
    "deep": "every token kept, what a question selects is read deeper",
    "streaming": "StreamingLLM",
    "full": "full attention",
    "beacon": "Activation Beacon",
    "cepe": "CEPE",
}


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def kept(shape: dict) -> str:
    """Of how many tokens the tree of a shape keeps one, as a word: a half at the first stride, a quarter at the next, …"""
    strides = shape.get("strides") or shape["ratios"]
    parts = [0.5 ** min(level, len(strides) - 1) for level in range(1, len(strides) + 1)]
    return {4: "fourth", 8: "eighth"}[
        round(1 / sum(part / stride for part, stride in zip(parts, strides, strict=True)))
    ]


def table(folder: str, first: str, lengths: list[int]) -> Iterator[str]:
    """Rows of one table, by length."""
    results = Results.load(HERE / folder)
    found: list[Row] = rows(results)
    yield "| tokens read | system | read, s | × | first token, s | all, s | × | peak, MB | kept, MB | rate of reading |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for length in lengths:
        here = [row for row in found if row.length == length and row.system in NAMES]
        base = next(row for row in here if row.system == first)
        for row in here:
            name = NAMES[row.system].format(kept(results.about["shape"]))
            if row.status != DONE:
                yield f"| {length:,} | {name} | {row.status or 'not measured'} |" + " |" * 7
                continue
            read, token, total = (row.seconds[part].median for part in ("read", "first", "total"))
            ratios = (read / base.seconds["read"].median, total / base.seconds["total"].median)
            used = (row.utilisation or {}).get("read")
            shown = [number(read), number(ratios[0]), number(token), number(total), number(ratios[1])]
            shown += [f"{(row.peak_bytes or 0) / 1e6:,.0f}", f"{(row.memory_bytes or 0) / 1e6:,.0f}"]
            yield f"| {length:,} | {name} | {' | '.join(shown)} | {f'{used:.0%}' if used is not None else '–'} |"


def by_tree() -> Iterator[str]:
    """Rows by setting of the tree: median seconds, and their ratio to the first setting's in the same round, the median, smallest and largest."""
    rows = json.loads((HERE / "tree.json").read_text(encoding="utf-8"))["rows"]
    yield "| | seconds | × |"
    yield "|---|--:|--:|"
    for row in rows:
        ratios = [a / b for a, b in zip(row["seconds"], rows[0]["seconds"], strict=True)]
        around = "" if row is rows[0] else f" ({min(ratios):.2f}–{max(ratios):.2f})"
        yield f"| {row['change']} | {number(row['median'])} | {median(ratios):.2f}{around} |"


def made(page: Path) -> str:
    """A page with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        lengths = [int(n) for n in match[4].split(",")]
        return f"{match[1]}\n" + "\n".join(table(match[2], match[3], lengths)) + "\n<!-- end -->"

    def served(match: re.Match[str]) -> str:
        return f"{match[1]}\n" + "\n".join(by_clients(loaded(HERE / match[2]))) + "\n<!-- end -->"

    def tree(match: re.Match[str]) -> str:
        return f"{match[1]}\n" + "\n".join(by_tree()) + "\n<!-- end -->"

    pattern = re.compile(r"(<!-- bench: (\S+) (\S+) (\S+) -->)\n.*?<!-- end -->", re.DOTALL)
    text = pattern.sub(fill, page.read_text(encoding="utf-8"))
    text = re.sub(r"(<!-- tree -->)\n.*?<!-- end -->", tree, text, flags=re.DOTALL)
    return re.sub(r"(<!-- serve: (\S+) -->)\n.*?<!-- end -->", served, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(made(page), encoding="utf-8")
