"""How deep a memory must be read for an untrained base to gain from it, as running text shows.

    python docs/training/depths.py measure RUN > docs/training/real/depths.jsonl    # RUN: a run of recipes/real-cpu.yaml, for its texts
    python docs/training/depths.py tables                                           # fills in the tables of real.md

The context is read through the bottom M layers by chunks, and each layer of a range gives its own memory to the same layer of
the upper model. Texts and targets are those of `real.py untrained`, of more documents. An hour and a half on one core.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from real import KEPT, PAGE, SHORT, WINDOWS, filled, interval, load, loss_of, read, recipe_of, selected, targets_of

from sharedllm.model.targets import IGNORE
from sharedllm.training.setup import make_tokenizer

ROWS = 4
AS_TEXT = {
    "whole": "all 6,144 tokens",
    "last": "the last 768",
    "last, twice": "the last 1,536",
    "selected": "768 that BM25 finds",
    "selected, twice": "1,536 that BM25 finds",
}
# Layers that have a memory, the first and the one after the last, which is M.
RANGES = ((0, 4), (0, 8), (0, 12), (0, 18), (8, 18), (0, 24))
STRIDES = ((16, 8, 4), (1, 1, 1))
BAND = (8, 18)


@torch.no_grad()
def measured_as_text(run: Path) -> Iterator[dict]:
    """The rivals: the context in the base's own window, whole or in as many tokens as the tree keeps."""
    recipe = recipe_of(run)
    tokenizer, context = make_tokenizer(recipe), max(WINDOWS) * recipe.model["window"]
    # Text has to fit into the window, or its beginning becomes a memory.
    losses = load(recipe_of(run, {"window": 2 * context}), None)
    for domain in recipe.data.sources:
        running, before, labels = targets_of(recipe, domain, SHORT, context, ROWS)
        for row in range(ROWS):
            asked, texts = running[row, : SHORT // 2], {"whole": before[row]}
            # As many tokens as the tree keeps, and twice as many, which is what text and a memory have together.
            for times, kept in (("", context // KEPT), (", twice", 2 * context // KEPT)):
                texts[f"last{times}"] = before[row, -kept:]
                texts[f"selected{times}"] = selected(tokenizer, before[row], asked, kept)
            for way, text in texts.items():
                ids = torch.cat([text, running[row]])[None]
                wanted = torch.cat([torch.full_like(text, IGNORE), labels[row]])[None]
                loss = loss_of(losses, recipe, ids, wanted, ids[:, :0])
                yield {"layers": [], "strides": [], "domain": domain, "row": row, "text": way, "loss": loss}


@torch.no_grad()
def measured_as_memory(run: Path) -> Iterator[dict]:
    for first, depth in RANGES:
        for strides in STRIDES:
            through = {"lower_layers": depth, "injection_map": [[n, n] for n in range(first, depth)]}
            recipe = recipe_of(run, through | {"strides": list(strides)})
            losses = load(recipe, None)
            for domain in recipe.data.sources:
                context = max(WINDOWS) * recipe.model["window"]
                running, before, labels = targets_of(recipe, domain, SHORT, context, ROWS)
                for row in range(ROWS):
                    # The other text is that of the row beside it.
                    contexts = {"none": before[[row], :0], "own": before[[row]], "other": before[[row ^ 1]]}
                    for text, ids in contexts.items():
                        loss = loss_of(losses, recipe, running[[row]], labels[[row]], ids)
                        about = {
                            "layers": [first, depth],
                            "strides": strides,
                            "domain": domain,
                            "row": row,
                            "text": text,
                        }
                        yield about | {"loss": loss}


@torch.no_grad()
def measured_with_both(run: Path) -> Iterator[dict]:
    """Whether a memory adds to what text in the window gives: the memory of a band, and as many tokens as text."""
    first, depth = BAND
    recipe = recipe_of(run, {"lower_layers": depth, "injection_map": [[n, n] for n in range(first, depth)]})
    losses, tokenizer, context = load(recipe, None), make_tokenizer(recipe), max(WINDOWS) * recipe.model["window"]
    for domain in recipe.data.sources:
        running, before, labels = targets_of(recipe, domain, SHORT, context, ROWS)
        for row in range(ROWS):
            kept = context // KEPT
            found = selected(tokenizer, before[row], running[row, : SHORT // 2], kept)
            # What is in the window as its own end is not in the memory, too.
            cases = {"last": (before[row, -kept:], before[row, :-kept]), "selected": (found, before[row])}
            for way, (text, memory) in cases.items():
                ids = torch.cat([text, running[row]])[None]
                wanted = torch.cat([torch.full_like(text, IGNORE), labels[row]])[None]
                about = {"layers": [first, depth], "strides": recipe.model["strides"], "domain": domain, "row": row}
                yield about | {"text": f"{way}, memory", "loss": loss_of(losses, recipe, ids, wanted, memory[None])}


def cells() -> dict[tuple, dict[tuple, float]]:
    """Losses by domain and row, by what was measured: (layers, strides, text)."""
    found: dict[tuple, dict[tuple, float]] = defaultdict(dict)
    for r in read("depths.jsonl"):
        found[tuple(r["layers"]), tuple(r["strides"]), r["text"]][r["domain"], r["row"]] = r["loss"]
        if r["text"] == "none":  # all models are the base then
            found["none"][r["domain"], r["row"]] = r["loss"]
    return found


def minus(one: dict[tuple, float], two: dict[tuple, float]) -> str:
    return interval(one[key] - two[key] for key in one)


def by_depth() -> str:
    found = cells()
    lines = ["| M of 24 | layers with a memory | strides | n | own text | another text | own minus another |"]
    lines.append("|--:|---|---|--:|--:|--:|--:|")
    for first, depth in RANGES:
        for strides in STRIDES:
            own, other = (found[(first, depth), strides, text] for text in ("own", "other"))
            if own:
                changes = minus(own, found["none"]), minus(other, found["none"]), minus(own, other)
                shown = f"{first} … {depth - 1} | {'/'.join(map(str, strides))} | {len(own)} | {' | '.join(changes)}"
                lines.append(f"| {depth} | {shown} |")
    return "\n".join(lines)


def as_text() -> str:
    found = cells()
    lines = [
        "| in the window as text | n | minus without | with the memory of layers 8 … 17 besides | with it, minus without it |"
    ]
    lines.append("|---|--:|--:|--:|--:|")
    for way, what in AS_TEXT.items():
        text, both = found[(), (), way], found[BAND, STRIDES[0], f"{way}, memory"]
        added = [minus(both, than) if both else "" for than in (found["none"], text)]
        lines.append(f"| {what} | {len(text)} | {minus(text, found['none'])} | {' | '.join(added)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        page = PAGE.read_text(encoding="utf-8")
        for name, table in (("depths", by_depth()), ("depths-text", as_text())):
            page = filled(page, name, table)
        PAGE.write_text(page, encoding="utf-8")
    else:
        run = Path(sys.argv[2])
        for record in chain(measured_as_text(run), measured_as_memory(run), measured_with_both(run)):
            print(json.dumps(record), flush=True)
