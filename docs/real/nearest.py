"""How much of the evidence of odd reworded questions is among the pieces of a long text that are read on to compare their meaning:
a line of docs/real/README.md. Takes a quarter of an hour for a million tokens.

Run: python docs/real/nearest.py MODEL DATA LENGTH …    # MODEL: of `sharedllm extend`; LENGTH: 256K, 1M
"""

import sys
from pathlib import Path

import numpy as np
import torch
from choosing import holding, spans_of

from sharedllm.cli.common import tokens_of_length
from sharedllm.cli.loading import load
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.memory.segments import segments_of
from sharedllm.scoring.meaning import NEAREST
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.text import tokenize


@torch.no_grad()
def main() -> None:
    model, tokenizer = load(sys.argv[1])
    meter = Meter(tokenizer)
    for length in sys.argv[3:]:
        plan = Plan(
            SETS.find("reworded"), TextSpec(Path(sys.argv[2]), tokens_of_length(length, 1), "odd", 50, 0), [], [], 32
        )
        (text,) = plan.texts(meter)
        segments = segments_of(model.read(tokenize(tokenizer, text.text), keep_all=True, fingerprint=False))
        index = TextIndex(segments, tokenizer, model.config.window, marks=model.config.marks)
        meaning, pieces = index.meaning(model.model, segments), index.pieces
        spans, found = spans_of(pieces, text.text, meter), []
        for question in text.questions:
            compared = set(meaning.nearest(question.question).tolist())
            found += [bool(compared & set(some.tolist())) for some in holding(spans, question)]
        print(
            f"{length}: {len(pieces):,} pieces, {100 * np.mean(found):.1f} % of {len(found)} facts in {NEAREST:,} tokens"
        )


if __name__ == "__main__":
    main()
