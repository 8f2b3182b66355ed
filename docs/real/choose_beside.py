"""How much of the evidence of even ids is read, how many tokens, and how well the base answers from them as text in its window, by how
pieces that words and heads find are compared by meaning too: the table of docs/real/choices.md. Questions that meaning decides are left
out. Takes half an hour on one core for a model of 0.5B parameters.

Run: python docs/real/choose_beside.py MODEL BASE DATA [SET:QUESTIONS:TOKENS,…]    # as choose_shares.py
"""

import sys

import torch
from choose_weights import asked
from choosing import Asker, cells_of, changed, gains, read, share_of, table, with_evidence
from torch import Tensor

from sharedllm.cli.loading import load, load_any
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
    return index.scores(question, chosen=chosen)[0][chosen]


@torch.no_grad()
def main() -> None:
    (model, tokenizer), base = load(sys.argv[1]), load_any(sys.argv[2])[0]
    asker = Asker(base, tokenizer)
    table("Evidence, tokens, hit, f1; better, worse.", ("set, even ids", "tokens", "n"), list(RULES))
    for name, count, length, size in cells_of(sys.argv[4] if sys.argv[4:] else CELLS):
        questions, chosen = SETS.find(name), {rule: [] for rule in RULES}
        for index, text in asked(model, tokenizer, name, count, sys.argv[3], length=size):
            for question, heads, gold in text:
                words = index.words.scores(question.question)
                covered, free = index.covered(question.question)
                if rankings.by_meaning(covered, free, words, index.texts, question.question):
                    continue
                found = rankings.join(words, torch.from_numpy(heads))
                for rule, (most, weight, further) in RULES.items():
                    ranked = found
                    if most:
                        some = found.topk(min(most, len(found))).indices.sort().values
                        near = nearness(index.meaning(model.model, index.segments), question.question, some, further)
                        share = found / found.max().clamp(min=1e-20)
                        both = rankings.with_meaning(found, some, near, free)
                        ranked = (1 - weight) * share + weight * (2 * both - share)
                    best = read(index, question.question, ranked)
                    row = asker.chosen(index, best, question, questions.instruction)
                    row.evidence = share_of(gold, best)
                    chosen[rule].append(row)
        asker.answer([row for rows in chosen.values() for row in rows], questions.new_tokens)
        before, *others = chosen.values()
        cells = [with_evidence(before)]
        cells += [f"{with_evidence(rows)}; {changed(gains(before, rows))}" for rows in others]
        print(f"| {name} | {length} | {len(before)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
