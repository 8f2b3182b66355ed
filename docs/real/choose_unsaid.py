"""How much of a question one piece has by chance, in shorter and longer texts: a table of docs/real/choices.md. Words only; takes
a minute.

Run: python docs/real/choose_unsaid.py MODEL DATA LENGTH …    # MODEL: of `sharedllm extend`; LENGTH: 32K, 128K
"""

import sys

import numpy as np
from choosing import texts

from sharedllm.cli.common import tokens_of_length
from sharedllm.cli.loading import load
from sharedllm.context.pieces import cut_chunks, piece_size
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.scoring.words import WordIndex
from sharedllm.utils.text import tokenize

QUESTIONS = {"reworded": 64, "nq": 60, "fairytaleqa": 60, "hotpotqa": 40}
GATES = (0.3, 0.4, 0.5, 0.6)


def main() -> None:
    model, tokenizer = load(sys.argv[1])
    meter, config = Meter(tokenizer), model.config
    assert config.marks
    for length in sys.argv[3:]:
        for name, count in QUESTIONS.items():
            found, sizes = [], []
            for text in texts(name, count, sys.argv[2], meter, tokens_of_length(length, 1)):
                ids = tokenize(tokenizer, text.text)[0]
                pieces = cut_chunks(config.marks, ids, config.chunk_size, piece_size(config.window))
                spans = zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)
                words = WordIndex(tokenizer.batch_decode([ids[start:end].tolist() for start, end in spans]))
                asked = [words.covered(question.question) for question in text.questions[: count - len(found)]]
                found += [1.0 if covered is None else float(covered.max()) for covered in asked]
                sizes.append(len(pieces))
                if len(found) == count:
                    break
            below = ", ".join(f"{gate}: {100 * np.mean(np.array(found) < gate):.0f} %" for gate in GATES)
            print(f"{length}, {name}: {len(found)} questions, {np.mean(sizes):,.0f} pieces, below {below}", flush=True)


if __name__ == "__main__":
    main()
