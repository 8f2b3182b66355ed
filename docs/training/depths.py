"""How deep a memory must be read for an untrained base to gain from it, as running text shows.

    python docs/training/depths.py measure RUN > docs/training/real/depths.jsonl    # RUN: a run of recipes/real-cpu.yaml, for its texts
    python docs/training/depths.py table                                            # fills in the table of real.md

Every layer up to M reads the context by chunks and gives its own memory to the same layer of the upper model. Texts and targets
are those of `real.py untrained`, of more documents. An hour and a half on one core.
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
LAYERS = 24
AS_TEXT = {
    "whole": "all 6,144 tokens as text in the window",
    "last": "the last 768 as text",
    "selected": "768 that BM25 finds, as text",
}
DEPTHS, STRIDES = (4, 8, 12, 18, 24), ((16, 8, 4), (1, 1, 1))


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
            found = selected(tokenizer, before[row], running[row, : SHORT // 2], context // KEPT)
            for way, text in (("whole", before[row]), ("last", before[row, -context // KEPT :]), ("selected", found)):
                ids = torch.cat([text, running[row]])[None]
                wanted = torch.cat([torch.full_like(text, IGNORE), labels[row]])[None]
                loss = loss_of(losses, recipe, ids, wanted, ids[:, :0])
                yield {"depth": 0, "strides": [], "domain": domain, "row": row, "text": way, "loss": loss}


@torch.no_grad()
def measured_as_memory(run: Path) -> Iterator[dict]:
    for depth in DEPTHS:
        for strides in STRIDES:
            recipe = recipe_of(run, {"lower_layers": depth, "strides": list(strides), "injection_map": None})
            losses = load(recipe, None)
            for domain in recipe.data.sources:
                context = max(WINDOWS) * recipe.model["window"]
                running, before, labels = targets_of(recipe, domain, SHORT, context, ROWS)
                for row in range(ROWS):
                    # The other text is that of the row beside it.
                    contexts = {"none": before[[row], :0], "own": before[[row]], "other": before[[row ^ 1]]}
                    for text, ids in contexts.items():
                        loss = loss_of(losses, recipe, running[[row]], labels[[row]], ids)
                        about = {"depth": depth, "strides": strides, "domain": domain, "row": row, "text": text}
                        yield about | {"loss": loss}


def table() -> str:
    cells: dict[tuple, dict[str, dict[tuple, float]]] = defaultdict(lambda: defaultdict(dict))
    lines = ["| memory | strides | n | own text | another text | own minus another |", "|---|---|--:|--:|--:|--:|"]
    for r in read("depths.jsonl"):
        cells[r["depth"], tuple(r["strides"])][r["text"]][r["domain"], r["row"]] = r["loss"]
    none = next(by_text["none"] for by_text in cells.values() if "none" in by_text)
    for (depth, strides), by_text in sorted(
        cells.items(), key=lambda cell: (cell[0][0] or 99, -max(cell[0][1], default=0))
    ):
        if not depth:
            for way, what in AS_TEXT.items():
                change = interval(loss - none[key] for key, loss in by_text[way].items())
                lines.append(f"| none: {what} | | {len(by_text[way])} | {change} | | |")
            continue
        own, other = by_text["own"], by_text["other"]
        changes = [
            interval(one[key] - two[key] for key in one) for one, two in ((own, none), (other, none), (own, other))
        ]
        lines.append(
            f"| M = {depth} of {LAYERS} | {'/'.join(map(str, strides))} | {len(own)} | {' | '.join(changes)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "table":
        page = filled(PAGE.read_text(encoding="utf-8"), "depths", table())
        PAGE.write_text(page, encoding="utf-8")
    else:
        for record in chain(measured_as_text(Path(sys.argv[2])), measured_as_memory(Path(sys.argv[2]))):
            print(json.dumps(record), flush=True)
