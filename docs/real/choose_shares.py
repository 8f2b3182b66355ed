"""How much of the evidence of even ids is read, how many tokens, and how well the base answers from them as text in its window, by
the share of the best score that a piece needs: the tables of docs/real/choices.md. Questions that meaning decides are left out.
Takes an hour on one core for a model of 0.5B parameters.

Run: python docs/real/choose_shares.py MODEL BASE DATA [SET:QUESTIONS,…]    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
"""

import sys

import torch
from choose_weights import asked
from choosing import Asker, read, share_of, table, with_evidence

from sharedllm.cli.loading import load, load_any
from sharedllm.evaluation.qa.sets import SETS
from sharedllm.scoring import rankings

# Set, number of questions, whether the text quotes them.
CELLS = (
    ("nq", 60, False),
    ("fairytaleqa", 60, False),
    ("hotpotqa", 40, False),
    ("keys-4", 40, False),
    ("keys-16", 40, False),
    ("keys-64", 40, False),
    ("values", 40, False),
    ("nq", 40, True),
    ("fairytaleqa", 40, True),
    ("keys-4", 40, True),
)
# The share of the best score that a piece needs, and how much of the question one has to have for the same share of coverage to count.
NEVER = 2.0
RULES = {"0.6": (0.6, NEVER), "0.6, of coverage too": (0.6, 0.8), "0.7": (0.7, NEVER), "0.8": (0.8, NEVER)}


def main() -> None:
    (model, tokenizer), base = load(sys.argv[1]), load_any(sys.argv[2])[0]
    asker = Asker(base, tokenizer)
    table("Evidence, tokens, hit, f1.", ("set, even ids", "n"), list(RULES))
    wanted = [part.split(":") for part in sys.argv[4].split(",")] if sys.argv[4:] else []
    for name, count, quoted in [(name, int(count), False) for name, count in wanted] or CELLS:
        questions, chosen = SETS.find(name), {rule: [] for rule in RULES}
        for index, text in asked(model, tokenizer, name, count, sys.argv[3], quoted):
            for question, heads, gold in text:
                ranked = rankings.join(index.words.scores(question.question), torch.from_numpy(heads))
                covered, free = index.covered(question.question)
                if rankings.by_meaning(
                    covered, free, index.words.scores(question.question), index.texts, question.question
                ):
                    continue
                for rule, (rankings.LEAST_SHARE, rankings.WHOLE) in RULES.items():
                    best = read(index, question.question, ranked)
                    row = asker.chosen(index, best, question, questions.instruction)
                    row.evidence = share_of(gold, best)
                    chosen[rule].append(row)
        asker.answer([row for rows in chosen.values() for row in rows], questions.new_tokens)
        cells = [with_evidence(rows) for rows in chosen.values()]
        print(
            f"| {name}{' quoted' if quoted else ''} | {len(next(iter(chosen.values())))} | {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
