"""How much of the evidence of even ids is read, and how many tokens, by the weight of a sentence encoder beside words, and by the rule of
how many pieces are read: the table of docs/real/choices.md. No answers are written and the base reads nothing, so 32K tokens take a minute.

Run: python docs/real/choose_encoder.py MODEL DATA ENCODER [HALF [SET:QUESTIONS:TOKENS,…]]    # MODEL: of `sharedllm extend`
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sharedllm.context.pieces import choose_pieces
from sharedllm.evaluation.qa.memory import unread
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring import rankings
from sharedllm.scoring.encoder import SentenceEncoder
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.checkpoints import load_tokenizer
from sharedllm.utils.text import tokenize

BUDGET = 512
CELLS = "nq:100:32K,hotpotqa:55:32K,fairytaleqa:100:32K,reworded:64:32K,keys-4:40:32K,keys-64:40:32K"
# Where the text has the question's words, and where it has few.
WEIGHTS = (
    (0.0, 0.0),
    (0.25, 1.0),
    (0.5, 0.5),
    (0.5, 0.75),
    (0.5, 0.85),
    (0.5, 1.0),
    (0.65, 1.0),
    (0.75, 0.75),
    (0.75, 1.0),
    (1.0, 1.0),
)
# The least share of the best score that a piece needs, and whether any piece is read where none has much of the question.
RULES = {"today's": (0.6, True), "always a share": (0.6, False), "0.7": (0.7, False), "0.8": (0.8, False)}


def main() -> None:
    config, tokenizer = SharedLLMConfig.from_pretrained(sys.argv[1]), load_tokenizer(sys.argv[1])
    encoder, meter = SentenceEncoder.load(sys.argv[3]), Meter(tokenizer)
    half = sys.argv[4] if sys.argv[4:] else "even"
    for part in (sys.argv[5] if sys.argv[5:] else CELLS).split(","):
        name, count, length = part.split(":")
        size = 1024 * (int(length[:-1]) * 1024 if length.endswith("M") else int(length[:-1]))
        found = {(weight, rule): [] for weight in WEIGHTS for rule in RULES}
        ranks = {weight: [] for weight in WEIGHTS}
        for text in Plan(SETS.find(name), TextSpec(Path(sys.argv[2]), size, half, 50, 0), [], [], int(count)).texts(
            meter
        ):
            segment = unread(tokenize(tokenizer, text.text), config.chunk_size)
            index = TextIndex([segment], tokenizer, config.window, marks=config.marks)
            ends = np.append(meter.tokens(text.text)[1], 0)
            starts, stops = ends[index.pieces.start.numpy() - 1], ends[index.pieces.end.numpy() - 1]
            sentences = index.sentences(encoder, [segment])
            for question in text.questions:
                gold = [np.flatnonzero((starts < end) & (stops > start)) for start, end in question.evidence]
                covered, free = index.covered(question.question)
                words, near = index.words.scores(question.question), sentences.scores(question.question)[0]
                for weight in WEIGHTS if gold else ():
                    share = weight[rankings.by_meaning(covered, free, words)]
                    scores = rankings.with_encoded(words, near, free, share)
                    after = rankings.follow(scores, index, question.question, free)
                    rank = np.argsort(np.argsort(-after.numpy(), kind="stable"))
                    ranks[weight] += [(rank[some].min() < 1, rank[some].min() < 8) for some in gold if len(some)]
                    for rule, (share, everything) in RULES.items():
                        rankings.LEAST_SHARE = share
                        kept = rankings.kept_pieces(scores, covered, free)
                        if not everything and covered is not None and covered[free].max() < rankings.FOUND:
                            kept = scores >= share * float(scores[torch.from_numpy(free)].max())
                        kept |= after > scores
                        kept[int(scores.masked_fill(torch.from_numpy(~free), -torch.inf).argmax())] = True
                        best = choose_pieces(after.masked_fill(~kept, -torch.inf), index.pieces, BUDGET)
                        read = set(best.tolist())
                        shown = float(np.mean([bool(set(one.tolist()) & read) for one in gold if len(one)]))
                        found[weight, rule].append((shown, int(index.pieces.lengths[best].sum())))
        print(f"\n{name}, {length}, {half} ids, n = {len(found[WEIGHTS[0], next(iter(RULES))])}", flush=True)
        for weight in WEIGHTS:
            first, eight = 100 * np.mean(ranks[weight], 0)
            cells = ("{:.1f}, {:.0f}".format(*(np.mean(found[weight, rule], 0) * (100, 1))) for rule in RULES)
            print(f"| {weight} | {first:.1f} / {eight:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
