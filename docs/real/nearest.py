"""How much of the evidence of odd reworded questions is among the pieces of a long text that meaning compares: a line of
docs/real/README.md. Takes a minute.

Run: python docs/real/nearest.py MODEL DATA LENGTH …    # MODEL: of `sharedllm extend`; LENGTH: 128K, 1M
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sharedllm.cli.common import tokens_of_length
from sharedllm.cli.loading import load
from sharedllm.context.pieces import cut_pieces, piece_size
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.scoring.meaning import MOST, MeaningIndex
from sharedllm.utils.text import ends_sentence, tokenize


@torch.no_grad()
def main() -> None:
    model, tokenizer = load(sys.argv[1])
    meter = Meter(tokenizer)
    for length in sys.argv[3:]:
        plan = Plan(
            SETS.find("reworded"), TextSpec(Path(sys.argv[2]), tokens_of_length(length, 1), "odd", 50, 0), [], [], 32
        )
        (text,) = plan.texts(meter)
        ids, stops = tokenize(tokenizer, text.text)[0], np.append(meter.tokens(text.text)[1], 0)
        end = torch.tensor([len(ids)])
        pieces = cut_pieces(ends_sentence(tokenizer, ids), end * 0, end, piece_size(model.config.window))
        index = MeaningIndex(model.model, tokenizer, ids, pieces, model.config.meaning_layers or 0)
        starts, ends = stops[pieces.start.numpy() - 1], stops[pieces.end.numpy() - 1]
        found = []
        for question in text.questions:
            compared = set(index.nearest(question.question).tolist())
            gold = [np.flatnonzero((starts < end) & (ends > start)) for start, end in question.evidence]
            found += [bool(compared & set(some.tolist())) for some in gold]
        print(
            f"{length}: {len(pieces):,} pieces, {100 * np.mean(found):.1f} % of {len(found)} facts in {MOST:,} tokens"
        )


if __name__ == "__main__":
    main()
