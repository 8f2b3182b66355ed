"""Loss of the same target tokens by length of context, on the validation books.

For each book, anchors at chunk borders behind the longest context. At each anchor the running text is one window; the
targets are its last half. What changes is only the compressed context in front: the book's own text, or another book's,
of 1 … 128 windows. Rows: the base model with the window alone; the extended model with the window alone; with its own
context; with another book's context. Differences are paired and averaged per book; 95 % intervals are from a bootstrap over books.

Run: python runs/tiny/evaluate_books.py --data build/tiny --base DIR --model DIR --out runs/tiny/results.json
"""

import argparse
import json
import platform
import random
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import sharedllm  # noqa: F401  (registers the model)

WINDOW = 512
LENGTHS = [WINDOW * 2**i for i in range(8)]  # 1 … 128 windows


def mean_target_loss(model, ids: Tensor, **context) -> float:
    """Mean loss of the last half of the running texts `ids` (1, W)."""
    logits = model(ids, use_cache=False, **context).logits
    targets = ids[:, WINDOW // 2 :]
    return float(cross_entropy(logits[0, WINDOW // 2 - 1 : -1].float(), targets[0]))


def interval(differences: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Mean over books and its 95 % bootstrap interval."""
    means = rng.choice(differences, (10_000, len(differences))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/tiny"))
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--anchors", type=int, default=8, help="places in each book")
    parser.add_argument("--books", type=int, default=None, help="only the first so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="validation")
    args = parser.parse_args()
    start_time = time.time()
    base = AutoModelForCausalLM.from_pretrained(args.base).eval()
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    chunk = model.config.chunk_size
    tokens = np.load(args.data / f"books-{args.split}.npy", mmap_mode="r")
    entries = json.loads((args.data / f"books-{args.split}.json").read_text())
    longest = LENGTHS[-1]
    short = [e["title"] for e in entries if e["end"] - e["start"] < longest + 2 * WINDOW]
    entries = [e for e in entries if e["title"] not in short][: args.books]
    if short:
        print(f"left out, shorter than {longest + 2 * WINDOW} tokens: {', '.join(short)}")
    rng = random.Random(args.seed)
    memories, anchors = [], []
    for entry in entries:
        length = entry["end"] - entry["start"]
        borders = range(longest, length - WINDOW, chunk)
        anchors.append(sorted(rng.sample(borders, min(args.anchors, len(borders)))))
        ids = torch.from_numpy(tokens[entry["start"] : entry["start"] + anchors[-1][-1]].astype(np.int64))[None]
        memories.append(model.read(ids, batch_tokens=32_768))
        print(f"{time.time() - start_time:.0f} s  read {entry['title'][:40]}: {ids.shape[1]:,} tokens", flush=True)

    columns = ["base", "none"] + [f"{kind}_{length}" for kind in ("own", "other") for length in LENGTHS]
    losses = np.zeros((len(entries), len(columns)))
    for book, entry in enumerate(entries):
        other = (book + 1) % len(entries)
        for place, anchor in enumerate(anchors[book]):
            at = entry["start"] + anchor
            ids = torch.from_numpy(tokens[at : at + WINDOW].astype(np.int64))[None]
            row = [mean_target_loss(base, ids), mean_target_loss(model, ids)]
            for source, end in ((book, anchor), (other, anchors[other][place % len(anchors[other])])):
                row += [mean_target_loss(model, ids, memory=memories[source].slice(end - n, end)) for n in LENGTHS]
            losses[book] += np.array(row) / len(anchors[book])
        print(f"{time.time() - start_time:.0f} s  scored {entry['title'][:40]}", flush=True)

    column = {name: losses[:, i] for i, name in enumerate(columns)}
    draw = np.random.default_rng(args.seed)
    table = []
    for length in LENGTHS:
        own = column[f"own_{length}"]
        table.append(
            {
                "context_tokens": length,
                "own": own.mean(),
                "other": column[f"other_{length}"].mean(),
                "own_minus_base": interval(own - column["base"], draw),
                "own_minus_other": interval(own - column[f"other_{length}"], draw),
                "own_minus_none": interval(own - column["none"], draw),
                "own_minus_own_2_windows": interval(own - column[f"own_{2 * WINDOW}"], draw),
            }
        )
    result = {
        "arguments": json.loads(json.dumps(vars(args), default=str)),
        "books": [e["title"] for e in entries],
        "left_out": short,
        "targets": int(sum(len(a) for a in anchors)) * (WINDOW // 2),
        "base": column["base"].mean(),
        "none": column["none"].mean(),
        "none_minus_base": interval(column["none"] - column["base"], draw),
        "by_length": table,
        "seconds": round(time.time() - start_time),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    print(f"base {result['base']:.4f}  none {result['none']:.4f}  difference {result['none_minus_base']}")
    for row in table:
        differences = "  ".join(
            f"{name} {d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
            for name, d in row.items()
            if isinstance(d, dict)
        )
        print(f"{row['context_tokens']:>6}  own {row['own']:.4f}  other {row['other']:.4f}  {differences}")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
