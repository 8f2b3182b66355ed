"""How well words and heads rank the evidence of even ids, by the weight of heads and the letters of a beginning: the table
of docs/real/README.md. Takes 15 minutes on two cores for a model of 0.5B parameters.

Run: python docs/real/choose_weights.py MODEL DATA    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sharedllm.cli.loading import load
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.memory.segments import segments_of
from sharedllm.prompts import NOTHING, PromptForm, own_words
from sharedllm.scoring import words
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.text import tokenize

QUESTIONS = {"nq": 160, "fairytaleqa": 160, "hotpotqa": 50, "keys-4": 60}
WEIGHTS, LETTERS = (0.0, 0.2, 0.3, 0.5, 1.0), (4, 5, 6)


@torch.no_grad()
def asked(model, tokenizer, name: str, count: int, data: Path, quoted: bool = False):
    """(index of the text, [(question of the set, the heads' scores (n,), pieces of each evidence)]) for each text."""
    meter, form = Meter(tokenizer), PromptForm.of(tokenizer)
    plan = Plan(SETS.find(name), TextSpec(data, 32_768, "even", 50, 0), [], [], count, quoted)
    for text in plan.texts(meter):
        memory = model.read(tokenize(tokenizer, text.text), keep_all=True, fingerprint=False)
        segments, ends = segments_of(memory), np.append(meter.tokens(text.text)[1], 0)
        index = TextIndex(segments, tokenizer, model.config.window, marks=model.config.marks)
        starts, stops = ends[index.pieces.start.numpy() - 1], ends[index.pieces.end.numpy() - 1]
        questions = []
        for question in text.questions:
            ids, nothing = (form.question(t, after_context=True) for t in (question.question, NOTHING))
            heads = index.heads(model.model, segments).scores(ids.to(model.device), own_words(ids, nothing))
            gold = [np.flatnonzero((starts < end) & (stops > start)) for start, end in question.evidence]
            questions.append((question, heads.numpy(), gold))
        yield index, questions


def main() -> None:
    model, tokenizer = load(sys.argv[1])
    for name, count in QUESTIONS.items():
        texts = list(asked(model, tokenizer, name, count, Path(sys.argv[2])))
        for letters in LETTERS:
            words._BEGINNING = letters
            words._distinct.cache_clear()
            found: dict[float, list[float]] = {weight: [] for weight in WEIGHTS}
            for text, questions in texts:
                index = words.WordIndex(text.texts)
                for question, heads, gold in questions:
                    by_words = index.scores(question.question).numpy()
                    for weight in WEIGHTS:
                        scores = by_words / max(by_words.max(), 1e-20) + weight * heads / max(heads.max(), 1e-20)
                        rank = np.argsort(np.argsort(-scores, kind="stable"))
                        found[weight] += [1 / (1 + rank[some].min()) for some in gold if len(some)]
            shown = ", ".join(f"{weight}: {np.mean(values):.3f}" for weight, values in found.items())
            print(f"{name}, {letters} letters, by weight of heads: {shown}", flush=True)


if __name__ == "__main__":
    main()
