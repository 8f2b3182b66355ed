"""How much of the evidence of even ids is read, how many tokens, and how well the base answers from them as text in its window, by how
pieces that words and heads find are compared by meaning too: the table of docs/real/choices.md. Questions that meaning decides are left
out. Takes half an hour on one core for a model of 0.5B parameters.

Run: python docs/real/choose_beside.py MODEL BASE DATA [SET:QUESTIONS:TOKENS,…]    # as choose_shares.py
"""

import sys
from pathlib import Path

import numpy as np
import torch
from choose_shares import Chosen, answer
from choose_weights import BUDGET, asked
from torch import Tensor

from sharedllm.cli.loading import load, load_any
from sharedllm.context.pieces import choose_pieces
from sharedllm.evaluation.qa.reader import Reader
from sharedllm.evaluation.qa.sets import SETS
from sharedllm.scoring import rankings
from sharedllm.scoring.meaning import MeaningIndex

CELLS = "nq:60:32K,fairytaleqa:60:32K,hotpotqa:40:32K,keys-4:40:32K,keys-16:40:32K,keys-64:40:32K,values:40:32K,hotpotqa:40:128K,nq:60:128K"
# How many pieces are compared, the weight of meaning, and whether they are read on for it.
RULES = {
    "by words and heads": (0, 0.0, False),
    "16, weight 0.3": (16, 0.3, False),
    "16, weight 0.5": (16, 0.5, False),
    "32, weight 0.5": (32, 0.5, False),
    "8 read on, weight 0.5": (8, 0.5, True),
    "16 read on, weight 0.5": (16, 0.5, True),
}


def nearness(index: MeaningIndex, question: str, chosen: Tensor, further: bool) -> Tensor:
    """(m,) how near some pieces are to a question, as the memory keeps them, or read on through the model's meaning layers."""
    if not further:
        found = index.as_kept(question, chosen)
        assert found is not None, "the model's memories keep no states of use"
        return found[0]
    (mine,) = index._tokenized([question])
    index._read_missing(chosen)
    return index._sentences_of(chosen).scores(*index._asked(mine, index._depth))


@torch.no_grad()
def main() -> None:
    (model, tokenizer), base = load(sys.argv[1]), load_any(sys.argv[2])[0]
    reader, head = Reader(base, tokenizer), Reader(base, tokenizer).form.head()
    print("Evidence, tokens, hit, f1.\n\n| set, even ids | tokens | n | " + " | ".join(RULES) + " |")
    print("|---|--:|--:|" + "--:|" * len(RULES))
    for part in (sys.argv[4] if sys.argv[4:] else CELLS).split(","):
        name, count, length = part.split(":")
        questions, chosen = SETS.find(name), {rule: [] for rule in RULES}
        size = 1024 * int(length.removesuffix("K"))
        for index, text in asked(model, tokenizer, name, int(count), Path(sys.argv[3]), length=size):
            for question, heads, gold in text:
                words = index.words.scores(question.question)
                covered, free = index.covered(question.question)
                if rankings.by_meaning(covered, free, words):
                    continue
                found = rankings.join(words, torch.from_numpy(heads))
                for rule, (most, weight, further) in RULES.items():
                    ranked = found
                    if most:
                        some = found.topk(min(most, len(found))).indices.sort().values
                        near = nearness(index.meaning(model.model, index._segments), question.question, some, further)
                        share = found / found.max().clamp(min=1e-20)
                        both = rankings.with_meaning(found, some, near, free)
                        ranked = (1 - weight) * share + weight * (2 * both - share)
                    scores = rankings.follow(ranked, index, question.question, free)
                    kept = rankings.kept_pieces(ranked, covered, free) | (scores > ranked)
                    best = choose_pieces(scores.masked_fill(~kept, -torch.inf), index.pieces, BUDGET)
                    read, shown = set(best.tolist()), "".join(index.texts[piece] for piece in best.tolist())
                    said = reader.prompt(
                        shown, reader.form.with_instruction(question.question, questions.instruction), bool(shown)
                    )
                    evidence = float(np.mean([bool(set(one.tolist()) & read) for one in gold if len(one)]))
                    shown_tokens = int(index.pieces.lengths[best].sum())
                    chosen[rule].append(
                        Chosen(evidence, shown_tokens, torch.cat([head, said], 1), tuple(question.answers))
                    )
        answer(reader, [row for rows in chosen.values() for row in rows], questions.new_tokens)
        before, cells = next(iter(chosen.values())), []
        for rows in chosen.values():
            hits, same = np.mean([row.scores for row in rows], 0)
            evidence, tokens = np.mean([row.evidence for row in rows]), np.mean([row.tokens for row in rows])
            change = np.array([row.scores[1] - old.scores[1] for row, old in zip(rows, before, strict=True)])
            cells.append(
                f"{100 * evidence:.1f}, {tokens:.0f}, {100 * hits:.1f}, {100 * same:.1f}"
                + (f"; {(change > 0).sum()}, {(change < 0).sum()}" if rows is not before else "")
            )
        print(f"| {name} | {length} | {len(before)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
