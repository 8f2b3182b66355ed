"""How much of the evidence of even ids is read, and how many tokens, by the weight of a sentence encoder beside words, and by the rule of
how many pieces are read: the table of docs/real/choices.md. The base reads nothing, so texts of 32K tokens take minutes. With BASE the
base answers from the pieces as text in its window, by words alone and by the chosen weights.

Run: python docs/real/choose_encoder.py MODEL DATA ENCODER [HALF [SET:QUESTIONS:TOKENS,… [BASE]]]    # MODEL: of `sharedllm extend`
"""

import sys

import numpy as np
import torch
from choosing import BUDGET, Asker, Unread, cells_of, changed, gains, holding, share_of, spans_of, texts, with_evidence

from sharedllm.cli.loading import load_any
from sharedllm.context.pieces import choose_pieces
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.sets import SETS
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring import rankings
from sharedllm.scoring.encoder import SentenceEncoder
from sharedllm.utils.checkpoints import load_tokenizer

CELLS = "nq:100:32K,hotpotqa:55:32K,fairytaleqa:100:32K,reworded:64:32K,keys-4:40:32K,keys-64:40:32K"
# Where the text has the question's words, where it has few, and where it has hardly any.
WEIGHTS = (
    (0.0, 0.0, 0.0),
    (0.25, 1.0, 1.0),
    (0.5, 0.5, 0.5),
    (0.5, 0.75, 0.75),
    (0.5, 0.75, 0.85),
    (0.5, 0.75, 1.0),
    (0.5, 0.85, 1.0),
    (0.5, 1.0, 1.0),
    (0.65, 1.0, 1.0),
    (0.75, 0.75, 0.75),
    (0.75, 1.0, 1.0),
    (1.0, 1.0, 1.0),
)
# Those of which answers are asked: by words alone, and as chosen.
ASKED = ((0.0, 0.0, 0.0), (0.5, 0.75, 1.0))
TODAY = (rankings.ENCODED, rankings.ENCODED_LITTLE, rankings.ENCODED_UNSAID)
# The least share of the best score that a piece needs, and whether any piece is read where none has much of the question.
RULES = {"today's": (0.6, True), "always a share": (0.6, False), "0.7": (0.7, False), "0.8": (0.8, False)}


def main() -> None:
    config, tokenizer = SharedLLMConfig.from_pretrained(sys.argv[1]), load_tokenizer(sys.argv[1])
    encoder, meter = SentenceEncoder.load(sys.argv[3]), Meter(tokenizer)
    half = sys.argv[4] if sys.argv[4:] else "even"
    assert half in ("even", "odd", "all")
    asker = Asker(load_any(sys.argv[6])[0], tokenizer) if sys.argv[6:] else None
    for name, count, length, size in cells_of(sys.argv[5] if sys.argv[5:] else CELLS):
        found = {(weight, rule): [] for weight in WEIGHTS for rule in RULES}
        ranks = {weight: [] for weight in WEIGHTS}
        answered = {weight: [] for weight in ASKED}
        for text in texts(name, count, sys.argv[2], meter, size, half):
            index = Unread(text.text, tokenizer, config)
            spans = spans_of(index.pieces, text.text, meter)
            sentences = index.sentences(encoder, index.segments)
            for question in text.questions:
                gold = holding(spans, question)
                covered, free = index.covered(question.question)
                words, near = index.words.scores(question.question), sentences.scores(question.question)[0]
                for weight in WEIGHTS if gold else ():
                    unsaid = rankings.by_meaning(covered, free, words, index.texts, question.question)
                    case = TODAY.index(rankings.encoder_weight(covered, free, unsaid))
                    scores = rankings.with_encoded(words, near, free, weight[case])
                    after = rankings.follow(scores, index, question.question, free)
                    rank = np.argsort(np.argsort(-after.numpy(), kind="stable"))
                    ranks[weight] += [(rank[some].min() < 1, rank[some].min() < 8) for some in gold if len(some)]
                    for rule, (share, everything) in RULES.items():
                        rankings.LEAST_SHARE = share
                        kept = rankings.kept_pieces(scores, covered, free)
                        if not everything and covered is not None and covered[free].max() < rankings.HARDLY_ANY:
                            kept = scores >= share * float(scores[torch.from_numpy(free)].max())
                        kept |= after > scores
                        kept[int(scores.masked_fill(torch.from_numpy(~free), -torch.inf).argmax())] = True
                        best = choose_pieces(after.masked_fill(~kept, -torch.inf), index.pieces, BUDGET)
                        found[weight, rule].append((share_of(gold, best), int(index.pieces.lengths[best].sum())))
                        if asker is not None and weight in ASKED and rule == "today's":
                            one = asker.chosen(index, best, question, SETS.find(name).instruction)
                            one.evidence = share_of(gold, best)
                            answered[weight].append(one)
        print(f"\n{name}, {length}, {half} ids, n = {len(found[WEIGHTS[0], next(iter(RULES))])}", flush=True)
        for weight in WEIGHTS:
            first, eight = 100 * np.mean(ranks[weight], 0)
            cells = ("{:.1f}, {:.0f}".format(*(np.mean(found[weight, rule], 0) * (100, 1))) for rule in RULES)
            print(f"| {weight} | {first:.1f} / {eight:.1f} | {' | '.join(cells)} |", flush=True)
        if asker is not None:
            asker.answer([row for rows in answered.values() for row in rows], SETS.find(name).new_tokens)
            before, after = answered.values()
            print(
                "evidence, tokens, hit, f1, by words and chosen; better, worse:",
                with_evidence(before),
                "and",
                with_evidence(after),
                ";",
                changed(gains(before, after)),
                flush=True,
            )


if __name__ == "__main__":
    main()
