"""The results of `sharedllm bench serve` as a table and a figure."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.drawing import pyplot
from ..utils.text_files import some

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Row:
    """A number of clients.

    rate, low, high  tokens per second: median, lowest and highest of the rounds
    ratio            median over the rounds of the rate divided by that of the first number of clients in the same round
    processor        the server's processor seconds for each token, if known
    first            seconds to the first token, by percentile. total: median seconds of a whole answer
    """

    clients: int
    rate: float
    low: float
    high: float
    ratio: float
    processor: float | None
    first: dict[int, float]
    total: float


def rows(results: dict[str, Any]) -> list[Row]:
    """By number of clients; only rounds in which all numbers were measured count."""
    numbers = results["about"]["plan"]["clients"]
    by = {(cell["clients"], cell["round"]): cell for cell in results["cells"]}
    complete = sorted({r for _, r in by if all((clients, r) in by for clients in numbers)})
    if not complete:
        return []
    made = []
    for clients in numbers:
        cells = [by[clients, r] for r in complete]
        rates = [_rate(cell) for cell in cells]
        ratios = [_rate(by[clients, r]) / _rate(by[numbers[0], r]) for r in complete]
        answers = [answer for cell in cells for answer in cell["answers"]]
        used = [cell["processor_seconds"] for cell in cells]
        tokens = sum(answer["tokens"] for answer in answers)
        made.append(
            Row(
                clients,
                statistics.median(rates),
                min(rates),
                max(rates),
                statistics.median(ratios),
                None if None in used else sum(used) / tokens,
                {p: percentile([answer["first"] for answer in answers], p) for p in PERCENTILES},
                statistics.median(answer["total"] for answer in answers),
            )
        )
    return made


def _rate(cell: dict[str, Any]) -> float:
    return sum(answer["tokens"] for answer in cell["answers"]) / cell["seconds"]


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that at least so many percent do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def table(results: dict[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table."""
    first, *_ = results["about"]["plan"]["clients"]
    yield f"| clients | tokens/s (lowest–highest) | × {first} | CPU s a token | × | first token, s: p50 | p90 | p99 | answer, s |"
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    made = rows(results)
    for row in made:
        used = "–" if row.processor is None else f"{row.processor:.3f}"
        saved = "–"
        if row.processor and made[0].processor:
            saved = f"{made[0].processor / row.processor:.2f}"
        times = " | ".join(f"{row.first[p]:.1f}" for p in PERCENTILES)
        rate = f"{row.rate:.1f} ({row.low:.1f}–{row.high:.1f})"
        yield f"| {row.clients} | {rate} | {row.ratio:.2f} | {used} | {saved} | {times} | {row.total:.1f} |"


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    about, cells = results["about"], results["cells"]
    plan, where = about["plan"], about["environment"]
    loads = [load for cell in cells for load in cell["load"]]
    answers = len(cells[0]["answers"]) if cells else 0
    lines = [
        f"# A server by clients: {plan['model']}",
        "",
        f"{where['cpu']}, {some(where['cores'], 'core')}, {some(where['threads'], 'thread')}; torch {where['torch']}, transformers "
        f"{where['transformers']}, sharedllm {about['sharedllm']}. Memories: {', '.join(plan['memories'])}; --batch "
        f"{plan['batch']}, {plan['tokens']} tokens an answer, {answers} answers in a cell, seed {plan['seed']}.",
        "",
        *table(results),
        "",
        "× compares with the first row of the same round; the second × does so for processor time. First token: from the "
        f"request on, waiting included. Load of the machine during the run: {min(loads):.1f}–{max(loads):.1f}."
        if loads
        else "",
        "",
    ]
    return "\n".join(lines)


def draw(results: dict[str, Any], folder: Path) -> Path:
    """Draw serve.png: tokens per second, and seconds to the first token, by clients.

    Raises:
        UserError: matplotlib is not installed.
    """
    plt = pyplot()
    made = rows(results)
    clients = [row.clients for row in made]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    left.plot(clients, [row.rate for row in made], "o-", label="measured")
    left.fill_between(clients, [row.low for row in made], [row.high for row in made], alpha=0.15)
    left.axhline(made[0].rate, color="grey", ls=":", label=f"{clients[0]} at a time")
    left.set(xlabel="clients", ylabel="tokens per second", ylim=(0, None))
    for percent in PERCENTILES:
        right.plot(clients, [row.first[percent] for row in made], "o-", label=f"p{percent}")
    right.set(xlabel="clients", ylabel="seconds to the first token", ylim=(0, None))
    for ax in (left, right):
        ax.set_xticks(clients)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=9)
    figure.savefig(folder / "serve.png", dpi=110)
    plt.close(figure)
    return folder / "serve.png"
