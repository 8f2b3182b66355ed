"""Fills in the table of the paper's ablations in docs/paper.md. Run: python docs/ablations/make_tables.py

What stands between `<!-- ablations -->` and `<!-- end -->` is that table. Our figures come from the results in this
folder; the paper's are quoted from arXiv 2603.04759, LLaMA-2-7B: perplexity on arXiv at 32K tokens, lower is better.
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "paper.md"
# The change, the paper's perplexity with it, file and variant here, whether both agree.
ROWS = (
    (
        "tree of two levels instead of three",
        2.51,
        "tiny",
        "height 2",
        "not confirmed: within the noise; two levels recall more",
    ),
    ("of four", 2.57, "tiny-maps", "height 4", "not confirmed: within the noise"),
    ("β = 1 instead of 8", 2.43, None, "stride 1 minus strides 16 8 4", "agrees: better"),
    ("β = 4", 2.48, None, "strides 8 4 2 minus strides 16 8 4", "agrees: little"),
    ("β = 16", 2.52, None, "strides 32 16 8 minus strides 16 8 4", "agrees: little"),
    ("top layers read the memory, not the bottom ones", 2.61, "tiny-maps", "top layers", "agrees"),
    ("every second layer reads it", 2.57, "tiny-maps", "interleaved layers", "agrees"),
    ("no split noise in training", 2.51, "tiny", "no split noise", "not confirmed: within the noise"),
    ("no positions of chunks", 2.49, "tiny", "keys in place", "agrees, with another form: each key at its own offset"),
)
PAPER = 2.46


def results(file: str) -> dict[str, dict]:
    return {row["variant"]: row for row in json.loads((HERE / f"{file}.json").read_text(encoding="utf-8"))}


def ours(file: str | None, variant: str) -> str:
    """The difference in loss on books after four windows, with its 95 % interval where the reference is one of the two."""
    if file is not None:
        cell = results(file)[variant]["books 2048"]
        return f"{cell['difference']:+.3f} ± {cell['half_width']:.3f}".replace("-", "−")
    known = results("tiny-maps") | results("tiny")
    with_it, without = (known[name]["books 2048"]["difference"] for name in variant.split(" minus "))
    return f"{with_it - without:+.3f}".replace("-", "−")


def table() -> list[str]:
    lines = ["| change | the paper: perplexity | here: loss, nats | |", "|---|--:|--:|---|"]
    lines.append(f"| none | {PAPER} | 0 | |")
    return lines + [
        f"| {name} | {paper} | {ours(file, variant)} | {said} |" for name, paper, file, variant, said in ROWS
    ]


def made(page: Path) -> str:
    """The page with its table made anew."""
    filled = "<!-- ablations -->\n" + "\n".join(table()) + "\n<!-- end -->"
    return re.sub(
        r"<!-- ablations -->\n.*?<!-- end -->", lambda _: filled, page.read_text(encoding="utf-8"), flags=re.S
    )


if __name__ == "__main__":
    PAGE.write_text(made(PAGE), encoding="utf-8")
