"""How much of the evidence of reworded questions is in those pieces of a text that are nearest to them in the states that are kept; and what is
left of it in the best piece and the best eight, by the states that compare meanings, if only these pieces were compared: a table of
docs/real/choices.md. Of texts that are not read on whole the former only. Takes ten minutes for 128K tokens on one core.

Run: python docs/real/nearest.py MODEL DATA LENGTH [HALF]    # MODEL: of `sharedllm extend`; LENGTH: 128K, 1M
"""

import sys

import numpy as np
import torch
from choosing import holding, spans_of, table, texts

from sharedllm.cli.common import tokens_of_length
from sharedllm.cli.loading import load
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.memory.segments import segments_of
from sharedllm.scoring.meaning import WHOLE, MeaningIndex
from sharedllm.scoring.rankings import by_meaning
from sharedllm.scoring.states import KeptStates
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.text import tokenize

TOKENS = (4_096, 8_192, 16_384, 24_576, 32_768, 49_152, 65_536, 98_304)


@torch.no_grad()
def main() -> None:
    (model, tokenizer), size = load(sys.argv[1]), tokens_of_length(sys.argv[3], 1)
    half, meter, config = sys.argv[4] if sys.argv[4:] else "even", Meter(tokenizer), model.config
    assert half in ("even", "odd", "all")
    found: list[np.ndarray] = []
    for text in texts("reworded", 64, sys.argv[2], meter, size, half):
        segments = segments_of(model.read(tokenize(tokenizer, text.text), keep_all=True, fingerprint=False))
        index = TextIndex(segments, tokenizer, config.window, marks=config.marks)
        kept, spans = KeptStates(model.model, segments, index.units), spans_of(index.pieces, text.text, meter)
        shallow = MeaningIndex(model.model, tokenizer, index.ids, index.pieces, config.lower_layers, kept)
        for question in text.questions:
            asked, (gold,) = question.question, holding(spans, question)
            covered, free = index.covered(asked)
            if not by_meaning(covered, free, index.words.scores(asked), index.texts, asked):
                continue
            order = shallow.scores(asked)[0].argsort(descending=True, stable=True)
            used = torch.empty_like(order).scatter_(0, order, index.pieces.lengths[order].cumsum(0))
            # By row: the whole text, then its nearest tokens.
            near = torch.stack([used <= tokens for tokens in (int(used.max()), *TOKENS)])
            shares = [near]
            if len(index.ids) <= WHOLE:
                deep = (
                    index.meaning(model.model, segments)
                    .scores(asked)[0]
                    .masked_fill(torch.from_numpy(~free), -torch.inf)
                )
                best = torch.where(near, deep, -torch.inf).argsort(stable=True, dim=1, descending=True)
                rank = best.argsort(stable=True, dim=1)
                shares += [near & (rank < 8), near & (rank < 1)]
            found.append(torch.stack([share[:, gold].any(1) for share in shares], 1).numpy())
    table(
        f"reworded, {half} ids: in these tokens / in the best eight / in the best",
        ("tokens", "n", "all"),
        list(map(str, TOKENS)),
    )
    cells = (" / ".join(f"{share:.1f}" for share in row) for row in 100 * np.mean(found, 0))
    print(f"| {sys.argv[3]} | {len(found)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
