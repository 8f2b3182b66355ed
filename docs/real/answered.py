"""The answers of which tables are made, and what these say of them.

cells.jsonl has the answers with the package's rule of how many pieces a question reads; cells-gpu.jsonl those with an earlier
rule, and of every depth and budget; cells-others.jsonl those of other bases; cells-encoder.jsonl those of a model with a sentence encoder; cells-spaces.jsonl those of pieces that begin with a
space and without it; cells-today.jsonl those to sets that were asked again; cells-summaries.jsonl those to sets of summaries;
cells-instruction-last.jsonl those of the same questions with the wording of before. No table shows cells-six-even.jsonl, of a model that reads through six layers: the text cites it.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from sharedllm.evaluation.qa.report import Contender, difference, estimate, load, shown

HERE = Path(__file__).parent
CELLS, EARLIER, OTHERS = HERE / "cells.jsonl", HERE / "cells-gpu.jsonl", HERE / "cells-others.jsonl"
SPACES, TODAY, SUMMARIES = (HERE / f"cells-{name}.jsonl" for name in ("spaces", "today", "summaries"))
ENCODER, LAST = HERE / "cells-encoder.jsonl", HERE / "cells-instruction-last.jsonl"
KEPT = ("question", "group", "operations", "read_operations", "again_operations", "selected_tokens")
BUDGET = 512
# A set is too hard for the base if it answers less than this share of the questions from the evidence itself.
SOLVED = 0.2
# Sets of which only even ids are at hand, on which settings may have been chosen.
EVEN = ("kv75", "kv140", "kv75-line", "kv140-line")
# 0: texts as they are.
LENGTHS = {0: "whole", 8192: "8K", 31744: "31K", 32768: "32K", 131072: "128K", 1048576: "1M"}
# Sets of whole documents, of which the length is the greatest.
DOCUMENTS = ("narrativeqa",)
SYSTEMS = {
    "sharedllm": "sharedllm",
    "same-pieces-text": "the same pieces as text",
    "bm25-text": "BM25 as text",
    "bm25-few-text": "BM25, fewer, as text",
    "minilm-text": "MiniLM as text",
    "both-few-text": "words and MiniLM, fewer, as text",
    "oracle-text": "oracle as text",
    "closed": "closed book",
    "wrong": "wrong text",
}
# Those that read the whole text with full attention, and keep all of it or as many tokens as a budget has.
WHOLE = {
    "full": "full attention",
    "replies:SnapKV": "SnapKV",
    "replies:ExpectedAttention": "Expected Attention",
    "replies:KVzip": "KVzip",
    "replies:KVzip-2048": "KVzip, 2,048 tokens",
}
# A rival for questions in other words.
SENTENCES = {"minilm-sentences-text": "MiniLM by sentences as text"}
# Those that are shown pieces of the text.
PIECES = ("sharedllm", "same-pieces-text", "bm25-text", "minilm-text", "oracle-text")
# Sets, lengths, depths, systems and budgets; None for systems without one.
Found = dict[tuple[str, int, str, str, int | None], Contender]


def taken(folders: list[str]) -> Iterator[dict[str, Any]]:
    """A line for each system of each cell, with what the tables need of each answer."""
    for cell in (cell for folder in folders for cell in load(Path(folder))):
        for c in cell.contenders:
            metric = cell.about["metrics"][0]
            rows = [
                {key: row[key] for key in KEPT if key in row} | {"scores": {metric: row["scores"][metric]}}
                for row in c.rows.values()
            ]
            about = {"set": cell.about["set"], "length": cell.about["length"], "half": cell.about["half"]}
            yield about | {
                "metric": metric, "named": cell.named, "system": c.system, "budget": c.budget,
                "environment": cell.environment, "rows": rows,
            }  # fmt: skip


def found(file: Path, base: str = "") -> tuple[Found, dict[str, str]]:
    """Answers by set, length, depth, system and budget; and the main score of each set. base: the model of a file with several."""
    answers, metrics = {}, {}
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if not line["named"].startswith(base):
            continue
        depth = re.search(r"M = (\d+)", line["named"])
        odd = line["half"] == "odd" or line["set"] in EVEN
        assert depth is not None and odd, "tables show odd ids, and say how deep the model reads"
        key = line["set"], line["length"], depth[1], line["system"], line["budget"]
        assert key not in answers, f"{key} is there twice"
        if line["rows"]:
            answers[key] = Contender(line["system"], line["budget"], {row["question"]: row for row in line["rows"]}, [])
        metrics[line["set"]] = line["metric"]
    return answers, metrics


def cell(answers: Found, name: str, length: int, budget: int = BUDGET) -> dict[str, Contender]:
    """The systems of the tables at one budget, on the questions that ours and the strongest rivals answered. A system
    that has not answered all of them is left out."""
    depth = min((key[2] for key in answers), key=int)
    here = {key[3]: c for key, c in answers.items() if key[:3] == (name, length, depth) and key[4] in (budget, None)}
    asked = set.intersection(*(set(here[system].rows) for system in PIECES[:3] if system in here))
    return {
        system: Contender(system, here[system].budget, {q: here[system].rows[q] for q in sorted(asked)}, [])
        for system in SYSTEMS | SENTENCES | WHOLE
        if system in here and asked <= here[system].rows.keys()
    }


def cells(answers: Found, budget: int = BUDGET, whole: bool = False) -> list[tuple[str, int]]:
    """Sets and lengths with answers of ours at a budget, in which full attention was not asked or, if `whole`, was."""
    read = {key[:2] for key in answers if key[3] in WHOLE}
    ours = {key[:2] for key in answers if key[3] == "sharedllm" and key[4] == budget}
    return sorted(ours & read if whole else ours - read)


def size(name: str, length: int) -> str:
    """The tokens of the texts."""
    return ("to " if name in DOCUMENTS else "") + LENGTHS[length]


def score(contender: Contender, metric: str) -> str:
    return f"{100 * estimate(list(contender.rows.values()), metric).mean:.1f}"


def groups(contender: Contender) -> int:
    """Groups of questions that depend on each other."""
    return len({row["group"] for row in contender.rows.values()})


def minus(ours: Contender, theirs: Contender, metric: str) -> str:
    """The difference with its interval."""
    changed = difference(ours, theirs, metric)
    assert changed is not None
    return shown(changed, signed=True)


def solved(answers: Found, name: str, length: int, metric: str) -> bool:
    """Whether the base can answer the questions when it is shown the evidence, as far as it was asked."""
    oracle = cell(answers, name, length).get("oracle-text")
    return oracle is None or estimate(list(oracle.rows.values()), metric).mean >= SOLVED


def changes(answers: Found, metrics: dict[str, str], rival: str) -> dict[str, list[float]]:
    """By set, ours minus a rival for each question of odd ids in the two tables of answers. A question that was asked of
    texts of several lengths counts once, by the mean of its differences."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, length in cells(answers) + cells(answers, whole=True):
        here, metric = cell(answers, name, length), metrics[name]
        if name in EVEN or rival not in here or not solved(answers, name, length, metric):
            continue
        for question, row in here["sharedllm"].rows.items():
            found[name][question].append(row["scores"][metric] - here[rival].rows[question]["scores"][metric])
    return {name: [fmean(c) for c in questions.values()] for name, questions in sorted(found.items())}


def mean(contender: Contender, value: Callable[[dict[str, Any]], float]) -> float:
    return sum(map(value, contender.rows.values())) / len(contender.rows)
