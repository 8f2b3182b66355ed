"""How much of the evidence of even ids is read, how many tokens, and how well the base answers from them as text in its window, by
the share of the best score that a piece needs: the tables of docs/real/choices.md. Questions that meaning decides are left out.
Takes an hour on one core for a model of 0.5B parameters.

Run: python docs/real/choose_shares.py MODEL BASE DATA [SET:QUESTIONS,…]    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from choose_weights import BUDGET, asked
from torch import Tensor

from sharedllm.cli.loading import load, load_any
from sharedllm.context.pieces import choose_pieces
from sharedllm.evaluation.qa.metrics import f1, hit
from sharedllm.evaluation.qa.reader import Reader
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
ROWS = 8


@dataclass
class Chosen:
    """Pieces chosen by one share for one question: share of the evidence in them, their tokens, the prompt that shows them."""

    evidence: float
    tokens: int
    prompt: Tensor
    answers: tuple[str, ...]
    scores: tuple[float, float] = field(default=(0.0, 0.0))


@torch.no_grad()
def answer(reader: Reader, rows: list[Chosen], new_tokens: int) -> None:
    """Greedy answers to prompts of similar lengths, padded on the left; equal prompts are answered once."""
    prompts = sorted({tuple(row.prompt[0].tolist()) for row in rows}, key=len)
    said: dict[tuple[int, ...], str] = {}
    for begin in range(0, len(prompts), ROWS):
        some = prompts[begin : begin + ROWS]
        ids = torch.zeros(len(some), len(some[-1]), dtype=torch.long)
        for row, prompt in zip(ids, some, strict=True):
            row[len(row) - len(prompt) :] = torch.tensor(prompt)
        mask = torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor([len(prompt) for prompt in some])[:, None]
        options = {
            "do_sample": False,
            "repetition_penalty": 1.0,
            "eos_token_id": sorted(reader.ends),
            "pad_token_id": 0,
        }
        options |= dict.fromkeys(("temperature", "top_p", "top_k"))
        made = reader.model.generate(ids, attention_mask=mask.long(), max_new_tokens=new_tokens, **options)
        texts = reader.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        said |= dict(zip(some, (text.strip() for text in texts), strict=True))
    for row in rows:
        text = said[tuple(row.prompt[0].tolist())]
        row.scores = hit(text, row.answers), f1(text, row.answers)


def main() -> None:
    (model, tokenizer), base = load(sys.argv[1]), load_any(sys.argv[2])[0]
    reader, head = Reader(base, tokenizer), Reader(base, tokenizer).form.head()
    print("Evidence, tokens, hit, f1.\n\n| set, even ids | n | " + " | ".join(RULES) + " |")
    print("|---|--:|" + "--:|" * len(RULES))
    wanted = [part.split(":") for part in sys.argv[4].split(",")] if sys.argv[4:] else []
    for name, count, quoted in [(name, int(count), False) for name, count in wanted] or CELLS:
        questions, chosen = SETS.find(name), {rule: [] for rule in RULES}
        for index, text in asked(model, tokenizer, name, count, Path(sys.argv[3]), quoted):
            for question, heads, gold in text:
                ranked = rankings.join(index.words.scores(question.question), torch.from_numpy(heads))
                covered, free = index.covered(question.question)
                if rankings.by_meaning(covered, free, index.words.scores(question.question)):
                    continue
                scores = rankings.follow(ranked, index, question.question, free)
                for rule, (rankings.LEAST_SHARE, rankings.WHOLE) in RULES.items():
                    kept = rankings.kept_pieces(ranked, covered, free) | (scores > ranked)
                    best = choose_pieces(scores.masked_fill(~kept, -torch.inf), index.pieces, BUDGET)
                    read = set(best.tolist())
                    shown = "".join(index.texts[piece] for piece in best.tolist())
                    said = reader.prompt(
                        shown, reader.form.with_instruction(question.question, questions.instruction), bool(shown)
                    )
                    found = float(np.mean([bool(set(some.tolist()) & read) for some in gold if len(some)]))
                    tokens = int(index.pieces.lengths[best].sum())
                    chosen[rule].append(Chosen(found, tokens, torch.cat([head, said], 1), tuple(question.answers)))
        answer(reader, [row for rows in chosen.values() for row in rows], questions.new_tokens)
        cells = []
        for rows in chosen.values():
            hits, same = np.mean([row.scores for row in rows], 0)
            evidence, tokens = np.mean([row.evidence for row in rows]), np.mean([row.tokens for row in rows])
            cells.append(f"{100 * evidence:.1f}, {tokens:.0f}, {100 * hits:.1f}, {100 * same:.1f}")
        print(f"| {name}{' quoted' if quoted else ''} | {len(rows)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
