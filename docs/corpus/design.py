"""On paper: a corpus of a million documents of 100,000 tokens, from measured figures; and how well stage one finds a document
among a million, by a simulation from measured scores.

    python docs/corpus/design.py measure books.jsonl.zst     words, sizes and scores of real documents → figures.json
    python docs/corpus/design.py                             writes the tables of docs/corpus.md from the results
"""

import argparse
import json
import math
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# Of all scripts here, by what was measured.
PAGE, RESULTS = HERE.parent / "corpus.md", HERE / "figures.json"
BENCH = HERE.parent / "bench" / "h200-qwen2.5-0.5b" / "bench.json"
# What is assumed, not measured: prices in dollars, and what a machine gets from a store in bytes a second.
GPU_HOUR, TB_MONTH, FETCH = 3.0, 23.0, 1e9
TOKENS = 100_000  # of a document
ROOM = 2**18  # tokens that stage two searches, `corpus.corpus.TOKENS`
BEST = 8  # documents, `corpus.corpus.DOCUMENTS`
# The base's shape (docs/bench/h200-qwen2.5-0.5b): pairs, key-value heads, numbers a head, hidden size; layers of scoring heads.
PAIRS, GROUPS, WIDTH, HIDDEN, LAYERS = 4, 2, 64, 896, 3
SUMMARY = 16 * LAYERS * WIDTH * 2  # bytes of the mean keys of a document


def measure(source: Path, documents: int, characters: int, questions: int) -> dict[str, Any]:
    """Sizes of the word index, and for each question the score of its document and of all others.

    A question is six words of one sentence of its document, none of which is of the question's form.
    """
    from sharedllm.corpus.sources import Span, lines_of
    from sharedllm.corpus.terms import Terms, counted
    from sharedllm.scoring.words import words_of

    rng, texts = random.Random(0), []
    for line in lines_of(Span("", str(source), "lines")):
        text = json.loads(line)["text"]
        if len(text) > 2 * characters:
            start = rng.randrange(len(text) - characters)
            texts.append(text[start : start + characters])
        if len(texts) == documents:
            break
    counts = [counted([text]) for text in texts]
    index = Terms.of(counts)
    asked = []
    while len(asked) < questions:
        target = rng.randrange(len(texts))
        sentence = words_of(rng.choice(re.split(r"[.!?]\s", texts[target])))
        if len(sentence) < 8:
            continue
        scores = index.scores(" ".join(rng.sample(sentence, 6))).numpy()
        others = np.delete(scores, target)
        # Of the others: the 90 % quantile, and how far those above it are above it on average.
        start = float(np.quantile(others, 0.9))
        excess = float((others[others > start] - start).mean()) if (others > start).any() else 0.0
        rank = int((others >= scores[target]).sum())
        asked.append({"target": float(scores[target]), "start": start, "excess": excess, "rank": rank})
    begun = time.perf_counter()
    for _ in range(20):
        index.scores("a captain and an island of gold in winter")
    return {
        "documents": len(texts),
        "characters": characters,
        "terms": float(np.mean([len(count) for count in counts])),
        "scoring_seconds": (time.perf_counter() - begun) / 20,
        "questions": asked,
    }


def found(asked: list[dict[str, float]], documents: int, best: int = BEST) -> float:
    """The share of questions whose document is among the best, when so many others have scores of the same distribution: of those
    above the 90 % quantile, exponential."""
    total = 0.0
    for each in asked:
        above = 0.1 * math.exp(-max(0.0, each["target"] - each["start"]) / max(each["excess"], 1e-9))
        expected = documents * (above if each["target"] > each["start"] else 0.1)
        if expected < 700:
            total += sum(
                math.exp(-expected + n * math.log(expected or 1e-300) - math.lgamma(n + 1)) for n in range(best)
            )
    return total / len(asked)


def sizes(terms: float) -> dict[str, float]:
    """Bytes and seconds of one document, from measured figures."""
    cells = json.loads(BENCH.read_text())["cells"]
    cell = next(c for c in cells if c["system"] == "deep" and c["length"] == 131_072)
    runs = cell["runs"]
    seconds = float(np.median([run["read"] for run in runs]))
    first = float(np.median([run["first"] for run in runs]))
    token = cell["memory_bytes"] / cell["length"]
    heads = PAIRS * 2 * GROUPS * WIDTH
    return {
        "read": seconds * TOKENS / cell["length"],
        "first": first,
        "keys": 2.0 * heads * TOKENS,
        "residuals": 2.0 * HIDDEN * TOKENS,
        "whole": token * TOKENS,
        "int8": (token - heads - HIDDEN + 4 * (PAIRS * 2 * GROUPS + 1)) * TOKENS,
        "words": 8 * terms,
        "summary": float(SUMMARY),
        "scored": 2.0 * LAYERS * GROUPS * WIDTH * ROOM + 4 * ROOM,
    }


def amount(number: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.0f} B"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def speed(said: dict[str, Any]) -> str:
    """What `measure.py speed` found: one process, and workers."""
    rows = [
        "| | start, s | reading, s | end, s | tokens a second while reading | … of the processor | equal to one process |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for run in said["runs"]:
        name = f"{run['workers']} worker{'s' * (run['workers'] > 1)}" if run["workers"] else "one process, without Ray"
        of_processor = run["tokens"] / run["processor_seconds"]
        rows.append(
            f"| {name} | {run['start']} | {run['reading']} | {run['end']} | {run['tokens_per_second']:,.0f} "
            f"| {of_processor:,.0f} | {'' if not run['workers'] else equal(run)} |"
        )
    return "\n".join(rows)


def passes(said: dict[str, Any]) -> str:
    """What `measure.py passes` found, by kind of file."""
    kinds = [f".{run['kind']}" for run in said["runs"]]
    rates = [number(said["text_bytes"] / 1e6 / run["seconds"]) for run in said["runs"]]
    return "\n".join(
        [
            "| | " + " | ".join(kinds) + " |",
            "|---|" + "--:|" * len(kinds),
            "| MB of text passed over in a second of the processor | " + " | ".join(rates) + " |",
        ]
    )


def equal(run: dict[str, Any]) -> str:
    return "yes, every byte" if run["equal"] else "no"


def cluster(said: dict[str, Any]) -> str:
    """What `measure.py kills` found on a cluster."""
    rows = ["| | seconds (median) | equal to one process |", "|---|--:|---|"]
    rows.append(f"| one process, without Ray | {said['one_process']['seconds']} | |")
    for run in said["workers"]:
        rows.append(f"| {run['workers']} worker{'s' * (run['workers'] > 1)} | {run['seconds']} | {equal(run)} |")
    names = {"worker": "a worker is killed", "node": "a node is killed", "driver": "the command is killed"}
    for what, name in (names | {None: "nothing was there to kill any more"}).items():
        runs = [run for run in said["runs"] if run["killed"] == what]
        if runs:
            same, seconds = sum(run["equal"] for run in runs), [run["seconds"] for run in runs]
            taken = f"{np.median(seconds):.1f}, up to {max(seconds)}"
            rows.append(f"| {len(runs)} runs in which {name} | {taken} | {same} of {len(runs)}, every byte |")
    return "\n".join(rows)


def answers(said: dict[str, Any]) -> str:
    """What `answers.py` found: by the number of documents, shares of questions with Wilson's interval."""
    from sharedllm.evaluation.statistics import wilson

    def share(values: list[float]) -> str:
        found = wilson(values)
        return f"{found.mean:.0%} ({found.low:.0%} … {found.high:.0%})"

    sizes = sorted({one["documents"] for one in said["records"]})
    of = {size: [one for one in said["records"] if one["documents"] == size] for size in sizes}
    best = said["settings"]["best"]
    ranked = {
        f"among the best {best} of stage one": "stage_one",
        "… by words alone": "words",
        "… by keys alone": "keys",
        "among the best of BM25 over whole documents": "bm25",
    }
    replied = {
        "answered: the corpus": "corpus",
        "answered: the same pieces as text in the base's window": "same",
        "answered: BM25's pieces as text": "bm25",
    }
    rows = {
        name: [share([float(one["ranks"][key] < best) for one in of[n]]) for n in sizes] for name, key in ranked.items()
    }
    rows |= {"questions": [str(len(of[n])) for n in sizes]}
    rows |= {"questions with answers": [str(sum("hit" in one for one in of[n])) for n in sizes]}
    for name, key in replied.items():
        hits = [[one["hit"][key] for one in of[n] if "hit" in one] for n in sizes]
        rows[name] = [share(each) if each else "" for each in hits]
    head = ["| | " + " | ".join(f"{n:,} documents" for n in sizes) + " |", "|---|" + "--:|" * len(sizes)]
    return "\n".join(head + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()])


def tables(figures: dict[str, Any]) -> dict[str, str]:
    results = figures["design"]
    one = sizes(results["terms_of_long"])
    counts = (1_000, 10_000, 100_000, 1_000_000)
    head = "| | " + " | ".join(f"{n:,} documents" for n in counts) + " |\n|---|" + "--:|" * len(counts)
    rows = {
        "tokens": lambda n: f"{n * TOKENS / 1e9:,.1f} · 10⁹",
        "read once, GPU-hours": lambda n: number(n * one["read"] / 3600),
        "… in dollars": lambda n: number(n * one["read"] / 3600 * GPU_HOUR),
        "keys and values": lambda n: amount(n * one["keys"]),
        "residual streams": lambda n: amount(n * one["residuals"]),
        "all of a memory": lambda n: amount(n * one["whole"]),
        "… in 8 bits": lambda n: amount(n * one["int8"]),
        "… in 8 bits, dollars a month": lambda n: number(n * one["int8"] / 1e12 * TB_MONTH),
        "token ids alone": lambda n: amount(n * TOKENS * 4),
        "words of the index, in RAM": lambda n: amount(n * one["words"]),
        "summary of keys, in RAM": lambda n: amount(n * one["summary"]),
        "stage one finds the document (simulated)": lambda n: f"{found(results['questions'], n):.0%}",
    }
    sized = "\n".join(
        [head, *(f"| {name} | " + " | ".join(row(n) for n in counts) + " |" for name, row in rows.items())]
    )
    again = ROOM * one["read"] / TOKENS
    per_question = again / 3600 * GPU_HOUR
    pays = 1e6 * one["int8"] / 1e12 * TB_MONTH / per_question
    ram = 64e9 / (one["words"] + one["summary"])
    asked = "\n".join(
        [
            "| part of a question | |",
            "|---|--:|",
            f"| stage two fetches ids and scoring keys of {ROOM:,} tokens | {amount(one['scored'])} |",
            f"| … at {amount(FETCH)}/s | {one['scored'] / FETCH:.2g} s |",
            f"| … or reads those tokens again on the GPU | {again:.2g} s |",
            f"| from there to the first token, with reading deeper | {one['first']:.2g} s |",
            f"| reading again, dollars a question | {per_question:.2g} |",
            f"| questions a month from which keeping 1M memories in 8 bits is cheaper | {float(f'{pays:.2g}'):,.0f} |",
            f"| documents whose index fits into 64 GB of RAM | {float(f'{ram:.2g}'):,.0f} |",
        ]
    )
    return {
        "sizes": sized,
        "question": asked,
        "speed": speed(figures["speed"]),
        "passes": passes(figures["passes"]),
        "cluster": cluster(figures["kills"]),
        "answers": answers(figures["answers"]),
    }


def made(text: str, found: dict[str, str]) -> str:
    for name, table in found.items():
        text = re.sub(
            rf"(<!-- design: {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", nargs="?", choices=["measure"])
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--questions", type=int, default=200)
    options = parser.parse_args()
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    if options.do:
        figures["design"] = measure(options.source, options.documents, 20_000, options.questions)
        figures["design"]["terms_of_long"] = measure(options.source, 5, 400_000, 1)["terms"]
        RESULTS.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    results = figures["design"]
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8"), tables(figures)), encoding="utf-8")
    ranks = [each["rank"] for each in results["questions"]]
    print(f"measured among {results['documents']}: {np.mean([r < BEST for r in ranks]):.1%} found", file=sys.stderr)


if __name__ == "__main__":
    main()
