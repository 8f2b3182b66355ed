"""Whether to follow the names that the best piece of a question shares with other pieces, and how many: the evidence of even ids in the
pieces that words choose, and the base's answers from them as text in its window: the tables of docs/real/choices.md.
Takes a quarter of an hour on one core for a base of 0.5B parameters.

Run: python docs/real/choose_links.py MODEL BASE DATA        # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
     python docs/real/choose_links.py MODEL BASE DATA odd    # what the chosen rule finds on the other half
"""

import sys
from collections.abc import Iterator
from unittest import mock

import numpy as np
from choosing import Asker, Unread, changed, figures, gained, gains, read, spans_of, table, texts
from torch import Tensor
from transformers import AutoTokenizer

from sharedllm.cli.loading import load_any
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.sets import SETS, Question
from sharedllm.evaluation.qa.sets.base import Half
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring import links

CELLS = (
    ("hotpotqa", 55, 32_768),
    ("fairytaleqa", 100, 32_768),
    ("nq", 100, 32_768),
    ("keys-4", 40, 32_768),
    ("hotpotqa", 55, 131_072),
    ("nq", 60, 131_072),
    ("nq", 60, 1_048_576),
)
# Least names, least added, followed, in how few pieces a name has to be. The first follows none, the second is what is used.
RULES = (
    (0.8, 0.1, 0, 8),
    (0.8, 0.1, 2, 8),
    (1.5, 0.1, 2, 8),
    (1.0, 0.1, 2, 8),
    (0.6, 0.1, 2, 8),
    (0.0, 0.1, 2, 8),
    (0.8, 0.0, 2, 8),
    (0.8, 0.2, 2, 8),
    (0.8, 0.1, 1, 8),
    (0.8, 0.1, 4, 8),
    (0.8, 0.1, 2, 16),
    (0.8, 0.1, 2, 64),
)


class Text(Unread):
    """spans: (n, 2) the characters of its pieces."""

    def __init__(self, text: str, tokenizer, config: SharedLLMConfig, meter: Meter):
        super().__init__(text, tokenizer, config)
        self.spans = spans_of(self.pieces, text, meter)

    def chosen(self, question: Question, rule: tuple[float, float, int, int]) -> Tensor:
        """The pieces that are read by a rule of `RULES`."""
        names = ("LEAST_NAMES", "LEAST_ADDED", "FOLLOWED", "FEW")
        with mock.patch.multiple(links, **dict(zip(names, rule, strict=True))):
            return read(self, question.question, self.words.scores(question.question))

    def found(self, question: Question, chosen: Tensor) -> np.ndarray:
        """For each part of the evidence, whether a piece has half of it, or is half of it."""
        starts, ends = self.spans[chosen.numpy()].T
        return np.array([
            bool((2 * (np.minimum(ends, b) - np.maximum(starts, a)) >= np.minimum(b - a, ends - starts)).any())
            for a, b in question.evidence
        ])  # fmt: skip


def asked(name: str, count: int, length: int, data: str, make, half: Half = "even") -> Iterator[tuple[Text, Question]]:
    """Questions of one half of the ids, each with its text."""
    for packed in texts(name, count, data, make.meter, length, half):
        text = Text(packed.text, make.tokenizer, make.config, make.meter)
        yield from ((text, question) for question in packed.questions[:count])
        count -= len(packed.questions[:count])
        if not count:
            return


class Make:
    """What texts are made with."""

    def __init__(self, folder: str):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.config, self.meter = SharedLLMConfig.from_pretrained(folder), Meter(self.tokenizer)


def evidence(picks: list[tuple[Text, Question, Tensor]]) -> str:
    """Parts of the evidence, questions with all of it, in per cent, and tokens, of the pieces that were chosen for questions."""
    parts = [text.found(question, chosen) for text, question, chosen in picks]
    tokens = np.mean([int(text.pieces.lengths[chosen].sum()) for text, _, chosen in picks])
    share, whole = np.mean([p.mean() for p in parts]), np.mean([p.all() for p in parts])
    return f"{100 * share:.1f}, {100 * whole:.1f}, {tokens:.0f}"


def main() -> None:
    make, half = Make(sys.argv[1]), "odd" if sys.argv[4:] == ["odd"] else "even"
    rules = RULES if half == "even" else RULES[:2]
    table("Parts of the evidence, questions with all of it, tokens.", (f"set, {half} ids", "n", "tokens"), list(map(str, rules)))  # fmt: skip
    every = {}
    for name, count, length in CELLS:
        every[name, length] = rows = list(asked(name, count, length, sys.argv[3], make, half))
        cells = [evidence([(text, question, text.chosen(question, rule)) for text, question in rows]) for rule in rules]
        size = f"{length // 1024}K".replace("1024K", "1M")
        print(f"| {name} | {len(rows)} | {size} | {' | '.join(cells)} |", flush=True)
    if half != "even":
        return
    asker = Asker(load_any(sys.argv[2])[0], make.tokenizer)
    print()
    table("Tokens, hit, f1.", ("set, even ids", "n"), ("none followed", "names followed", "difference in f1", "better, worse"))  # fmt: skip
    for name in ("hotpotqa", "nq", "fairytaleqa"):
        questions = SETS.find(name)
        before, after = (
            [
                asker.chosen(text, text.chosen(question, rule), question, questions.instruction)
                for text, question in every[name, 32_768]
            ]
            for rule in RULES[:2]
        )
        asker.answer(before + after, questions.new_tokens)
        gain = gains(before, after)
        cells = figures(before), figures(after), gained(gain), changed(gain)
        print(f"| {name} | {len(before)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
