"""What an untrained base gains from a memory of up to 128K tokens, as running text shows.

    python docs/training/far.py measure BASE CORPUS > docs/training/real/far.jsonl    # CORPUS: {books,code,proofs}-validation-*.jsonl.zst
    python docs/training/far.py tables                                                # fills in the table of real.md

The memory of a band of layers, as in depths.py. A text is read once; the memory of its last tokens is a part of that, because chunks
are read alone. Half an hour a text on one core in fp32.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from depths import BAND, STRIDES
from real import PAGE, SHORT, filled, read, selected
from torch import Tensor
from transformers import AutoTokenizer

from sharedllm import ContextMemory, SharedLLMForCausalLM
from sharedllm.data.sources import documents
from sharedllm.utils.text import tokenize

SETTINGS = {
    "window": 2048, "chunk_size": 1024, "strides": list(STRIDES[0]), "lower_layers": BAND[1], "encoding": "chunk",
    "injection": "joint", "anchor": True, "injection_map": [[n, n] for n in range(*BAND)],
}  # fmt: skip
# Windows before the targets, and targets of a text, so many tokens apart.
LENGTHS = tuple(n * SETTINGS["window"] for n in (3, 15, 62))
TARGETS, APART = 2, 4096
# Tokens that BM25 finds, as text beside the memory.
TEXT = 768


@torch.no_grad()
def measured(base: str, corpus: Path, texts: int = 1, lengths: tuple[int, ...] = LENGTHS) -> Iterator[dict]:
    """texts: of each kind. lengths: of memories, in tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = SharedLLMForCausalLM.from_base(base, dtype=torch.float32, **SETTINGS).eval()
    longest = max(lengths)
    needed = longest + TARGETS * APART

    def loss(running: Tensor, memory: ContextMemory | None = None) -> float:
        """Of the last SHORT // 2 tokens, in nats a token."""
        logits = model(running[None], memory=memory, logits_to_keep=SHORT // 2 + 1).logits[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits.float(), running[-SHORT // 2 :]))

    for kind in ("books", "code", "proofs"):
        ids = (
            tokenize(tokenizer, document.text)[0] for document in documents([f"{corpus}/{kind}-validation-*.jsonl.zst"])
        )
        for row, text in enumerate(islice((text for text in ids if len(text) >= needed + SHORT), texts)):
            memory = model.read(text[None, :needed])
            for target in range(TARGETS):
                at = longest + target * APART
                running, about = text[at : at + SHORT], {"domain": kind, "row": row, "target": target}
                yield about | {"length": 0, "beside": "", "loss": loss(running)}
                for length in lengths:
                    own = memory.slice(at - length, at)
                    yield about | {"length": length, "beside": "", "loss": loss(running, own)}
                    found = selected(tokenizer, text[at - length : at], running[: SHORT // 2], TEXT)
                    both = torch.cat([found, running])
                    yield about | {"length": length, "beside": "alone", "loss": loss(both)}
                    yield about | {"length": length, "beside": "memory", "loss": loss(both, own)}


def table() -> str:
    """Means over the targets of each text."""
    found: dict[tuple, list[float]] = defaultdict(list)
    for r in read("far.jsonl"):
        found[r["domain"], r["row"], r["length"], r["beside"]].append(r["loss"])
    lines = [
        "| text | tokens in the memory | minus without | 768 that BM25 finds in them, as text | both, minus that text |",
        "|---|--:|--:|--:|--:|",
    ]
    for domain, row, length, beside in sorted(found):
        if length and not beside:
            place = (domain, row)
            none, own = fmean(found[*place, 0, ""]), fmean(found[*place, length, ""])
            text, both = (fmean(found[*place, length, way]) for way in ("alone", "memory"))
            lines.append(f"| {domain} | {length:,} | {own - none:+.4f} | {text - none:+.4f} | {both - text:+.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), "far", table()), encoding="utf-8")
    else:
        for record in measured(sys.argv[2], Path(sys.argv[3])):
            print(json.dumps(record), flush=True)
