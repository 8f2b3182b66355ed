"""How well words and heads rank the evidence of even ids, by the weight of heads and the letters of a beginning: the table
of docs/real/choices.md. Takes 15 minutes on two cores for a model of 0.5B parameters. And, for the rival `both-few-text`, how much of
the evidence it shows by the weight of meaning beside words.

Run: python docs/real/choose_weights.py MODEL DATA            # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
     python docs/real/choose_weights.py MODEL DATA ENCODER    # the rival, with a sentence encoder's folder
"""

import sys
from dataclasses import replace

import numpy as np
import torch
from choosing import BUDGET, holding, spans_of, table, texts
from transformers import AutoTokenizer

from sharedllm.cli.loading import load
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.pieces import cut, golden, within
from sharedllm.evaluation.qa.rankings import Both, ranked, ranking_of
from sharedllm.memory.segments import segments_of
from sharedllm.prompts import NOTHING, PromptForm, own_words
from sharedllm.scoring import words
from sharedllm.scoring.rankings import LEAST_SHARE
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.text import tokenize

RIVAL = {"nq": 100, "hotpotqa": 55, "fairytaleqa": 100, "reworded": 64, "keys-4": 40}
MEANINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
QUESTIONS = {"nq": 160, "fairytaleqa": 160, "hotpotqa": 50, "keys-4": 60}
WEIGHTS, LETTERS = (0.0, 0.2, 0.3, 0.5, 1.0), (4, 5, 6)


@torch.no_grad()
def asked(model, tokenizer, name: str, count: int, data: str, quoted: bool = False, length: int = 32_768):
    """(index of the text, [(question of the set, the heads' scores (n,), pieces of each evidence)]) for each text."""
    meter, form = Meter(tokenizer), PromptForm.of(tokenizer)
    for text in texts(name, count, data, meter, length, quoted=quoted):
        memory = model.read(tokenize(tokenizer, text.text), keep_all=True, fingerprint=False)
        segments = segments_of(memory)
        index = TextIndex(segments, tokenizer, model.config.window, marks=model.config.marks)
        spans, questions = spans_of(index.pieces, text.text, meter), []
        for question in text.questions:
            ids, nothing = (form.question(t, after_context=True) for t in (question.question, NOTHING))
            heads = index.heads(model.model, segments).scores(ids.to(model.device), own_words(ids, nothing))
            questions.append((question, heads.numpy(), holding(spans, question)))
        yield index, questions


def evidence_shown(pieces, scores: np.ndarray, gold) -> tuple[float, int]:
    """The share of the evidence in the pieces that a rival shows, and their tokens."""
    order = [i for i in ranked(scores) if scores[i] >= LEAST_SHARE * scores.max()]
    chosen = set(within(pieces, order, BUDGET))
    return float(np.mean([bool(chosen & set(some)) for some in gold])), sum(pieces[i].tokens for i in chosen)


def rival(meter: Meter, data: str, encoder: str) -> None:
    both = ranking_of("both", encoder)
    assert isinstance(both, Both)
    table("Evidence, tokens.", ("set, even ids", "n"), list(map(str, MEANINGS)))
    for name, count in RIVAL.items():
        found = {weight: [] for weight in MEANINGS}
        for text in texts(name, count, data, meter):
            pieces = cut(text, meter)
            index = both.index(text, pieces)
            for question in text.questions:
                for weight in MEANINGS if (gold := golden(pieces, question.evidence)) else ():
                    found[weight].append(
                        evidence_shown(pieces, replace(both, weight=weight).scores(index, question), gold)
                    )
        cells = ("{:.1f}, {:.0f}".format(*(np.mean(found[weight], 0) * (100, 1))) for weight in MEANINGS)
        print(f"| {name} | {len(found[0.0])} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    model, tokenizer = load(sys.argv[1])
    for name, count in QUESTIONS.items():
        every = list(asked(model, tokenizer, name, count, sys.argv[2]))
        for letters in LETTERS:
            words.BEGINNING = letters
            words.asked_terms.cache_clear()
            found: dict[float, list[float]] = {weight: [] for weight in WEIGHTS}
            for text, questions in every:
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
    if sys.argv[3:]:
        rival(Meter(AutoTokenizer.from_pretrained(sys.argv[1])), sys.argv[2], sys.argv[3])
    else:
        main()
