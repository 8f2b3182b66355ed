"""How much of the evidence of even ids is read, and how many tokens, by the share of the best score that a piece needs: the
table of docs/real/README.md. Takes ten minutes on two cores for a model of 0.5B parameters.

Run: python docs/real/choose_shares.py MODEL DATA    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
"""

import sys
from pathlib import Path

import numpy as np
import torch
from choose_weights import asked

from sharedllm.cli.loading import load
from sharedllm.context.pieces import choose_pieces
from sharedllm.scoring import passages

# Set, number of questions, whether the text quotes them.
CELLS = (
    ("nq", 60, False),
    ("fairytaleqa", 60, False),
    ("hotpotqa", 40, False),
    ("keys-4", 40, False),
    ("nq", 40, True),
    ("fairytaleqa", 40, True),
    ("keys-4", 40, True),
)
# Name, whether quotations are left out of the comparison, least share, and the share where one piece contains much.
RULES = (
    ("0.4", False, 0.4, 0.4),
    ("0.4, quotations aside", True, 0.4, 0.4),
    ("0.4, 0.6 where sure, quotations aside", True, 0.4, 0.6),
    ("0.4, 0.7 where sure, quotations aside", True, 0.4, 0.7),
    ("0.6, quotations aside", True, 0.6, 0.6),
)
BUDGET = 512


def main() -> None:
    model, tokenizer = load(sys.argv[1])
    print("| set, even ids | n | " + " | ".join(f"{name}: evidence, tokens" for name, *_ in RULES) + " |")
    print("|---|--:|" + "--:|" * len(RULES))
    for name, count, quoted in CELLS:
        kept: dict[str, list[tuple[float, int]]] = {rule: [] for rule, *_ in RULES}
        texts = asked(model, tokenizer, name, count, Path(sys.argv[2]), quoted)
        for index, question, heads, gold in ((index, *each) for index, questions in texts for each in questions):
            ranked = passages.join(index.words.scores(question), torch.from_numpy(heads))
            covered, free = index.covered(question)
            for rule, aside, passages.LEAST_SHARE, passages.SURE_SHARE in RULES:
                least = passages.least_score(ranked, covered, free if aside else np.ones_like(free))
                chosen = choose_pieces(ranked.masked_fill(ranked < least, -torch.inf), index.pieces, BUDGET)
                read = set(chosen.tolist())
                share = float(np.mean([bool(set(some.tolist()) & read) for some in gold if len(some)]))
                kept[rule].append((share, int(index.pieces.lengths[chosen].sum())))
        cells = [f"{100 * np.mean([s for s, _ in k]):.1f}, {np.mean([t for _, t in k]):.0f}" for k in kept.values()]
        n = len(next(iter(kept.values())))
        print(f"| {name}{' quoted' if quoted else ''} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
