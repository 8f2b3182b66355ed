"""Where pieces should end: with sentences or lines alone, or with paragraphs and records where one ends in time, or before headings too.
Even ids, pieces chosen by words, the base's answers from them as text in its window; and how many records stand whole in one
piece: the tables of docs/real/choices.md. Takes half an hour on one core for a base of 0.5B parameters.

Run: python docs/real/choose_ends.py MODEL BASE DATA           # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
     python docs/real/choose_ends.py MODEL BASE DATA evidence  # of both halves, with and without headings; two minutes
"""

import json
import random
import sys
import uuid
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from choose_links import RULES, Make, asked
from choose_links import evidence as evidence_of
from choosing import BUDGET, Asker, Unread, changed, figures, gained, gains, spans_of, table, texts

from sharedllm.cli.loading import load, load_any
from sharedllm.context.pieces import choose_pieces
from sharedllm.context.stops import Marks
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.sets import SETS
from sharedllm.scoring.rankings import kept_pieces

NAMES, CITIES = ("Ottilie Brandt", "Jan Kos", "Mia Vale", "Ada Quill"), ("Turku", "Trieste", "Oslo")
CELLS_READ = (("nq", 100, 32_768), ("hotpotqa", 55, 32_768), ("fairytaleqa", 100, 32_768), ("keys-64", 40, 32_768))
CELLS = {"nq": 60, "hotpotqa": 40, "keys-4": 40, "fairytaleqa": 60}


def records() -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
    """Forms of the same 400 records: a name, the text, and the characters of each record's values."""
    rng = random.Random(0)
    values = [
        {"id": i, "customer": f"{rng.choice(NAMES)} {i}", "city": rng.choice(CITIES), "day": f"2024-0{i % 9 + 1}-1{i % 9}", "total": i * 7919 + 1000}
        for i in range(400)
    ]  # fmt: skip
    keys = {str(uuid.UUID(int=rng.getrandbits(128))): str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(400)}
    lines = ["".join(f"{key}: {value}\n" for key, value in record.items()) for record in values]
    forms = {
        "JSON in lines": json.dumps({"orders": values}, indent=2),
        "a blank line between records": "\n".join(lines),
        "YAML": "".join("- " + line.rstrip().replace("\n", "\n  ") + "\n" for line in lines),
    }
    for name, text in forms.items():
        starts = [text.index(record["customer"]) for record in values]
        ends = [text.index(str(record["total"]), start) for start, record in zip(starts, values, strict=True)]
        yield name, text, [(a, b + len(str(r["total"]))) for a, b, r in zip(starts, ends, values, strict=True)]
    for name, separators in (("UUIDs, JSON on one line", (", ", ": ")), ("the same without spaces", (",", ":"))):
        text = json.dumps(keys, separators=separators)
        yield name, text, [(text.index(key), text.index(value) + len(value)) for key, value in keys.items()]


def evidence() -> None:
    """Parts of the evidence that are read, questions with all of it, and tokens."""
    make = Make(sys.argv[1])
    marks = make.config.breaking, make.config.heading
    table("Parts of the evidence, questions with all of it, tokens.", ("set", "tokens", "ids", "n"), ("with paragraphs", "before headings too"))  # fmt: skip
    for name, count, length in (*CELLS_READ, *((name, count, 131_072) for name, count, _ in CELLS_READ[:2])):
        for half in ("even", "odd"):
            cells = []
            for make.config.breaking, make.config.heading in ((None, None), marks):
                rows = list(asked(name, count, length, sys.argv[3], make, half))
                cells.append(
                    evidence_of([(text, question, text.chosen(question, RULES[1])) for text, question in rows])
                )
            print(f"| {name} | {length // 1024}K | {half} | {len(rows)} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    (model, tokenizer), base = load(sys.argv[1]), load_any(sys.argv[2])[0]
    asker, meter, config = Asker(base, tokenizer), Meter(tokenizer), model.config
    marks = config.marks
    assert marks is not None
    paragraphs = Marks(marks.parting, marks.closing, marks.pausing)
    rules = {"sentences": Marks((), marks.closing, marks.pausing), "paragraphs": paragraphs, "headings": marks}

    every = {"lines": Marks((), marks.closing)} | rules
    table("Records whole in one piece, %.", ("400 records",), list(every))
    for name, text, spans in records():
        cells = []
        for rule in every.values():
            first, last = spans_of(Unread(text, tokenizer, config, rule).pieces, text, meter).T
            cells.append(np.mean([bool(((first <= a) & (b <= last)).any()) for a, b in spans]))
        print(f"| {name} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |", flush=True)
    steps = [f"{new} minus {old}: f1; better, worse" for old, new in pairwise(rules)]
    print()
    table("Tokens, hit, f1.", ("set, even ids", "n"), [*rules, *steps])
    for name, count in CELLS.items():
        questions, chosen, done = SETS.find(name), {rule: [] for rule in rules}, 0
        for text in texts(name, count, sys.argv[3], meter):
            some = text.questions[: count - done]
            for rule, kinds in rules.items():
                index = Unread(text.text, tokenizer, config, kinds)
                for question in some:
                    scores, covered = index.words.scores(question.question), index.words.covered(question.question)
                    kept = kept_pieces(scores, covered, np.ones(len(scores), dtype=bool))
                    best = choose_pieces(scores.masked_fill(~kept, -torch.inf), index.pieces, BUDGET)
                    chosen[rule].append(asker.chosen(index, best, question, questions.instruction))
            done += len(some)
            if done == count:
                break
        for rows in chosen.values():
            asker.answer(rows, questions.new_tokens)
        cells = [figures(rows) for rows in chosen.values()]
        changes = [gains(before, after) for before, after in pairwise(chosen.values())]
        cells += [f"{gained(gain)}; {changed(gain)}" for gain in changes]
        print(f"| {name} | {done} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    evidence() if sys.argv[4:] == ["evidence"] else main()
