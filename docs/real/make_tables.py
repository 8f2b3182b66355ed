"""Fills in the tables of this folder's pages, and of the package's README.md, from answers (see answered.py).

Run: python docs/real/make_tables.py                      makes the tables again
     python docs/real/make_tables.py cells.jsonl FOLDER …  takes the answers of a file from folders that `sharedllm qa` wrote
"""

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from answered import (
    BUDGET,
    CELLS,
    EARLIER,
    ENCODER,
    HERE,
    LAST,
    LENGTHS,
    OTHERS,
    PIECES,
    SENTENCES,
    SPACES,
    SUMMARIES,
    SYSTEMS,
    TODAY,
    WHOLE,
    Found,
    cell,
    cells,
    changes,
    found,
    groups,
    mean,
    minus,
    score,
    size,
    solved,
    taken,
)

from sharedllm.evaluation.qa.report import Contender, total_operations
from sharedllm.evaluation.statistics import holm, sign_test

PAGES = *sorted(HERE.glob("*.md")), HERE.parent.parent / "README.md"
# One set of each kind: questions about stories, over two passages, about alike facts, search queries, and in other words.
FRONT = ("fairytaleqa", "hotpotqa", "keys-4", "nq", "reworded")
# The sets of odd ids that the base can solve, and those whom ours is counted against on them.
ODD_SETS = ("nq", "hotpotqa", "fairytaleqa", "narrativeqa", "keys-4", "keys-16", "keys-64", "values", "reworded")
RIVALS = ("same-pieces-text", "bm25-text", "bm25-few-text", "minilm-text", "both-few-text", "full")
# The strongest simple ones, by how they are called where ours is compared with them.
SIMPLE = {"same-pieces-text": "the same pieces", "bm25-text": "BM25"}


def main_table(answers: Found, metrics: dict[str, str], hard: bool = False) -> Iterator[str]:
    """Sets and lengths by system, and ours against the strongest simple rivals that were asked. hard: those that the base can't solve."""
    names = {s: name for s, name in SYSTEMS.items() if any(key[3] == s for key in answers)}
    rivals = {s: f"minus {name}" for s, name in SIMPLE.items() if s in names}
    yield f"| set, score | tokens | n | groups | {' | '.join([*names.values(), *rivals.values()])} |"
    yield "|---|--:|--:|--:|" + "--:|" * (len(names) + len(rivals))
    for name, length in cells(answers):
        here, metric = cell(answers, name, length), metrics[name]
        if solved(answers, name, length, metric) == hard:
            continue
        shown = [score(here[s], metric) if s in here else "–" for s in names]
        ours = here["sharedllm"]
        signed = " | ".join(minus(ours, here[rival], metric) for rival in rivals)
        yield f"| {name}, {metric} | {size(name, length)} | {len(ours.rows)} | {groups(ours)} | {' | '.join(shown)} | {signed} |"


def reworded_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """Questions in other words, by system."""
    names = SYSTEMS | SENTENCES
    here = cell(answers, "reworded", 32_768)
    yield f"| | {' | '.join(names[s] for s in names if s in here)} |"
    yield "|---|" + "--:|" * sum(s in here for s in names)
    yield f"| answered, % | {' | '.join(score(here[s], 'hit') for s in names if s in here)} |"
    ours = here["sharedllm"]
    against = [minus(ours, here[s], "hit") if s != "sharedllm" else "–" for s in names if s in here]
    yield f"| sharedllm minus that | {' | '.join(against)} |"


def whole_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """Where full attention can read the text: its answers, and those of its cache when it is compressed."""
    names = {s: name for s, name in SYSTEMS.items() if s not in ("minilm-text", "closed", "wrong")} | WHOLE
    yield f"| set, score | tokens | n | {' | '.join(names.values())} | minus full attention |"
    yield "|---|--:|--:|" + "--:|" * (len(names) + 1)
    for name, length in cells(answers, whole=True):
        here, metric = cell(answers, name, length), metrics[name]
        shown = [score(here[s], metric) if s in here else "–" for s in names]
        ours = here["sharedllm"]
        against = minus(ours, here["full"], metric) if "full" in here else "–"
        yield f"| {name}, {metric} | {size(name, length)} | {len(ours.rows)} | {' | '.join(shown)} | {against} |"


def pairs_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """How often ours answers better and worse than each rival, by set and over all, with a sign test."""
    yield "| sharedllm against | all, p | " + " | ".join(ODD_SETS) + " |"
    yield "|---|--:|" + "--:|" * len(ODD_SETS)
    for rival in RIVALS:
        by_set = changes(answers, metrics, rival)
        every = [c for found in by_set.values() for c in found]
        counts = {
            name: (sum(c > 0 for c in found), sum(c < 0 for c in found))
            for name, found in (by_set | {"": every}).items()
        }
        marks = dict(zip(by_set, holm([sign_test(*counts[name]) for name in by_set]), strict=True))
        shown = ["–".join(map(str, counts[name])) + " \\*" * marks[name] if name in counts else "" for name in ODD_SETS]
        better, worse = counts[""]
        total = f"{better}–{worse} of {len(every)}, {sign_test(better, worse):.2g}"
        yield f"| {(SYSTEMS | WHOLE)[rival]} | {total} | {' | '.join(shown)} |"


def wording_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """The same questions with the instruction last, and as they are put today."""
    before, _ = found(LAST)
    yield (
        "| set, score | tokens | n | " + " | ".join(SYSTEMS[system] for system in PIECES) + " | sharedllm, difference |"
    )
    yield "|---|--:|--:|" + "--:|" * (len(PIECES) + 1)
    for name, length in cells(before):
        metric = metrics[name]
        was, now = cell(before, name, length), cell(answers, name, length)
        asked = was["sharedllm"].rows.keys() & now["sharedllm"].rows.keys()
        was, now = (
            {s: Contender(s, c.budget, {q: c.rows[q] for q in sorted(asked)}, []) for s, c in here.items()}
            for here in (was, now)
        )
        shown = [f"{score(was[s], metric)} → {score(now[s], metric)}" if s in was and s in now else "–" for s in PIECES]
        changed = minus(now["sharedllm"], was["sharedllm"], metric)
        yield f"| {name}, {metric} | {size(name, length)} | {len(was['sharedllm'].rows)} | {' | '.join(shown)} | {changed} |"


def budget_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """The same questions with half of the budget."""
    yield "| set, score | n | budget | " + " | ".join(SYSTEMS[system] for system in PIECES) + " |"
    yield "|---|--:|--:|" + "--:|" * len(PIECES)
    for name, length in cells(answers, BUDGET // 2):
        small, large = (cell(answers, name, length, budget) for budget in (BUDGET // 2, BUDGET))
        asked = small["sharedllm"].rows.keys() & large["sharedllm"].rows.keys()
        for here in (small, large):
            shown = [
                score(Contender(s, None, {q: here[s].rows[q] for q in sorted(asked)}, []), metrics[name])
                for s in PIECES
            ]
            yield f"| {name}, {metrics[name]} | {len(asked)} | {here['sharedllm'].budget} | {' | '.join(shown)} |"


def front_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """Ours and the strongest rivals for one set of each kind, without the shortest texts of those that have longer ones."""
    yield "| | tokens | questions | sharedllm | the same pieces as text | words' and MiniLM's as text |"
    yield "|---|--:|--:|--:|--:|--:|"
    every = [(name, length) for name, length in cells(answers) if name in FRONT]
    for name, length in every:
        lengths = [n for other, n in every if other == name]
        if len(lengths) > 1 and length == min(lengths):
            continue
        here = cell(answers, name, length)
        shown = " | ".join(score(here[s], metrics[name]) if s in here else "–" for s in (*PIECES[:2], "both-few-text"))
        yield f"| {name}, {metrics[name]} | {size(name, length)} | {len(here['sharedllm'].rows)} | {shown} |"


def encoder_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """A model with a sentence encoder, beside the rival with the same encoder and, of the same questions as far as it was asked them, the
    model without one."""
    without, _ = found(CELLS)
    yield "| set, score | tokens | n | with an encoder | the same pieces as text | words and MiniLM, fewer, as text | minus the same pieces | minus words and MiniLM | without one | of the text, tokens | × of text |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name, length in cells(answers):
        here, metric = cell(answers, name, length), metrics[name]
        ours, text, both = (here[system] for system in ("sharedllm", "same-pieces-text", "both-few-text"))
        alone = without.get((name, length, "3", "sharedllm", BUDGET))
        rows = {} if alone is None else {q: alone.rows[q] for q in sorted(ours.rows.keys() & alone.rows.keys())}
        before = score(Contender("sharedllm", BUDGET, rows, []), metric) if rows else "–"
        share = mean(ours, lambda r: r["operations"]) / mean(text, lambda r: r["operations"])
        shown = " | ".join(score(c, metric) for c in (ours, text, both))
        yield (
            f"| {name}, {metric} | {size(name, length)} | {len(ours.rows)} | {shown} | {minus(ours, text, metric)} | "
            f"{minus(ours, both, metric)} | {before} | {mean(ours, lambda r: r['selected_tokens']):,.0f} | {share:.2f} |"
        )


def spaces_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """Pieces that begin with the space before their first word, and without it."""
    yield "| set, score | tokens | n | with the space | without it | the same pieces as text | with it minus these | without it minus these |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, length, depth in sorted({key[:3] for key in answers}):
        before, ours, text = (
            answers[name, length, depth, system, BUDGET]
            for system in ("sharedllm:spaced", "sharedllm", "same-pieces-text")
        )
        metric = metrics[name]
        shown = " | ".join(score(c, metric) for c in (before, ours, text))
        differ = " | ".join(minus(c, text, metric) for c in (before, ours))
        yield f"| {name}, {metric} | {size(name, length)} | {len(text.rows)} | {shown} | {differ} |"


def cost_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """Operations of the same pieces as text and of ours: for each question, and for so many about one text with reading it."""
    counts = (1, 10, 100, 1000)
    yield (
        "| set | tokens | of the text, tokens | as text, 10⁹ | sharedllm, 10⁹ | × | its pieces read already, 10⁹ | "
        f"{' | '.join(f'{n:,}' for n in counts)} |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|" + "--:|" * len(counts)
    for name, length in sorted(cells(answers) + cells(answers, whole=True)):
        if not solved(answers, name, length, metrics[name]):
            continue
        here = cell(answers, name, length)
        both = here["same-pieces-text"], here["sharedllm"]
        text, ours = (mean(c, lambda row: row["operations"]) / 1e9 for c in both)
        tokens = mean(both[1], lambda row: row["selected_tokens"])
        again = mean(both[1], lambda row: row["again_operations"]) / 1e9
        totals = [[total_operations(c, n) or 0.0 for c in both] for n in counts]
        shown = [" / ".join(f"{t:.3g}" if t < 1000 else f"{t:,.0f}" for t in pair) for pair in totals]
        figures = f"{tokens:,.0f} | {text:,.0f} | {ours:,.0f} | {ours / text:.2f} | {again:,.0f}"
        yield f"| {name} | {size(name, length)} | {figures} | {' | '.join(shown)} |"


def depth_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """By depth: the answers, what reading costs, and what a question costs."""
    deep = sorted({key[:2] for key in answers if key[3] == "sharedllm:bm25"})
    for name, length in deep:
        yield f"| M, {name} at {LENGTHS[length]} | n | {metrics[name]} | minus the same pieces | reading, 10¹² operations | a question, 10⁹ |"
        yield "|---|--:|--:|--:|--:|--:|"
        text = next(
            c for key, c in answers.items() if key[:2] == (name, length) and key[3].startswith("same-pieces-text:")
        )
        yield f"| 0, text in the window | {len(text.rows)} | {score(text, metrics[name])} | – | 0 | {mean(text, lambda r: r['operations']) / 1e9:,.0f} |"
        for depth in sorted({key[2] for key in answers if key[:2] == (name, length)}, key=int):
            c = answers.get((name, length, depth, "sharedllm:bm25", BUDGET))
            if c is not None:
                signed = minus(c, text, metrics[name])
                read, each = mean(c, lambda r: r["read_operations"]) / 1e12, mean(c, lambda r: r["operations"]) / 1e9
                yield f"| {depth} | {len(c.rows)} | {score(c, metrics[name])} | {signed} | {read:.3g} | {each:,.0f} |"
        yield ""


RANKINGS = {
    "default": "words, heads and meaning (ours, the default)",
    "encoder": "words and a sentence encoder (ours, `extend --encoder`)",
    "memory:hybrid": "words and heads",
    "memory:meaning": "meaning alone (ours)",
    "memory:bm25": "words alone (ours)",
    "memory:attention": "heads of the bottom three layers alone",
    "bm25": "BM25, the rival",
    "minilm": "all-MiniLM-L6-v2",
    "minilm-sentences": "all-MiniLM-L6-v2, a piece by its best sentence",
    "bm25+minilm": "BM25 and MiniLM",
    "both": "words and MiniLM's best sentence, the strongest rival",
}


# The questions of the table of selection, and how long their texts are.
SELECTED = ("reworded", "reworded-128k", "nq", "fairytaleqa", "hotpotqa", "nq-128k", "fairytaleqa-128k", "hotpotqa-128k", "nq-1m")  # fmt: skip


def selection_table(answers: Found, metrics: dict[str, str]) -> Iterator[str]:
    """The share of the evidence among the best piece and the best 8, from the reports of `sharedllm selection`."""
    shares: dict[str, dict[str, str]] = {}
    counts: dict[str, str] = {}
    # What a memory's own ranking is by: without meaning, with it, and by a sentence encoder.
    own = {"selection-words.md": "memory:hybrid", "selection-meaning.md": "default", "selection-encoder.md": "encoder"}
    reports = [
        (label, text, hybrid)
        for file, hybrid in own.items()
        for label, text in re.findall(
            r"^# .*?: (\S+)\n(.*?)(?=^# |\Z)", (HERE / file).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
    ]
    for label, text, hybrid in reports:
        name = label.removesuffix("-32768").replace("-131072", "-128k").replace("-1048576", "-1m")
        rows = text.partition("| all questions |")[2].partition("\n\n")[0]
        for ranking, n, first, eighth in re.findall(
            r"^\| (\S+) \| (\d+) \| ([\d.]+) .*?\| .*?\| ([\d.]+) ", rows, re.MULTILINE
        ):
            assert counts.setdefault(name, n) == n, f"{label} has {n} questions, another report of it {counts[name]}"
            # Words rank alike with and without a memory.
            row = {"words": "memory:bm25", "memory:hybrid": hybrid}.get(ranking, ranking)
            shares.setdefault(row, {})[name] = f"{first} / {eighth}"
    yield f"| ranking | {' | '.join(f'{name} (n={counts[name]})' for name in SELECTED)} |"
    yield "|---|" + "--:|" * len(SELECTED)
    for ranking, shown in RANKINGS.items():
        yield f"| {shown} | {' | '.join(shares[ranking].get(name, '–') for name in SELECTED)} |"


# Each table's answers, by file and, in a file of several bases, by base, and what makes it.
TABLES = {
    "selection": (CELLS, selection_table),
    "front": (CELLS, front_table),
    "main": (CELLS, main_table),
    "hard": (CELLS, partial(main_table, hard=True)),
    "pairs": (CELLS, pairs_table),
    "wording": (CELLS, wording_table),
    "reworded": (CELLS, reworded_table),
    "whole": (CELLS, whole_table),
    "encoder": (ENCODER, encoder_table),
    "gemma": (OTHERS, main_table, "Gemma 3"),
    "smollm2": (OTHERS, main_table, "SmolLM2"),
    "spaces": (SPACES, spaces_table),
    "today": (TODAY, main_table),
    "summaries": (SUMMARIES, main_table),
    "cost": (CELLS, cost_table),
    "gpu": (EARLIER, main_table),
    "budget": (EARLIER, budget_table),
    "depth": (EARLIER, depth_table),
}


def made(page: Path) -> str:
    """A page with its tables made anew."""
    text = page.read_text(encoding="utf-8")
    for name, (file, table, *base) in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if pattern.search(text):
            rows = "\n".join(table(*found(file, *base))).strip()
            text = pattern.sub(lambda m, rows=rows: f"{m[1]}{rows}\n{m[2]}", text)
    return text


if __name__ == "__main__":
    if sys.argv[1:]:
        assert sys.argv[1].endswith(".jsonl") and sys.argv[2:], __doc__
        lines = [json.dumps(line) + "\n" for line in taken(sys.argv[2:])]
        (HERE / sys.argv[1]).write_text("".join(lines), encoding="utf-8")
    for page in PAGES:
        page.write_text(made(page), encoding="utf-8")
