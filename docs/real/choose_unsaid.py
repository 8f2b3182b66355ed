"""How much of a question one piece has by chance, in shorter and longer texts, and whether that tells a text that answers from one that
doesn't: tables of docs/real/choices.md. The base reads nothing. Words take a minute; an encoder embeds 32K tokens in half of one.

Each question is put to its own text and to the next one, unless that has the answer too.

Run: python docs/real/choose_unsaid.py MODEL DATA SET:QUESTIONS:LENGTH:PERTEXT,… [HALF [ENCODER]]    # MODEL: of `sharedllm extend`
"""

import sys
from pathlib import Path

import numpy as np
from choosing import Unread

from sharedllm.cli.common import tokens_of_length
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.model.config import SharedLLMConfig
from sharedllm.scoring.encoder import SentenceEncoder
from sharedllm.scoring.found import seems_answered, share_said
from sharedllm.utils.checkpoints import load_tokenizer

GATES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.6)


def main() -> None:
    config, tokenizer = SharedLLMConfig.from_pretrained(sys.argv[1]), load_tokenizer(sys.argv[1])
    half, meter = sys.argv[4] if sys.argv[4:] else "even", Meter(tokenizer)
    assert half in ("even", "odd", "all")
    encoder = SentenceEncoder.load(sys.argv[5]) if sys.argv[5:] else None
    for part in sys.argv[3].split(","):
        name, count, length, per_text = part.split(":")
        size = 0 if length == "whole" else tokens_of_length(length, 1)
        plan = Plan(
            SETS.find(name), TextSpec(Path(sys.argv[2]), size, half, int(per_text), 0), [], [], int(count), False
        )
        texts = list(plan.texts(meter))
        indexes = []
        for text in texts:
            index = Unread(text.text, tokenizer, config)
            indexes.append((index, index.sentences(encoder, index.segments) if encoder else None))
        # For questions of the text and of another: how much one piece says by words, and by both; and whether that is enough.
        has: dict[bool, list[list[float]]] = {True: [], False: []}
        enough: dict[bool, list[list[bool]]] = {True: [], False: []}
        for place, text in enumerate(texts):
            for other in {place, (place + 1) % len(texts)}:
                (index, sentences), written = indexes[other], texts[other].text.casefold()
                for question in text.questions:
                    covered, free = index.covered(question.question)
                    answered = any(answer.casefold() in written for answer in question.answers)
                    if covered is None or (other != place and answered):
                        continue
                    by = [None] if sentences is None else [None, sentences.scores(question.question)[0]]
                    has[other == place].append([share_said(covered, free, near) for near in by])
                    enough[other == place].append([bool(seems_answered(covered, free, near)) for near in by])
        sizes = np.mean([len(index.texts) for index, _ in indexes])
        print(f"\n{name}, {length}, {half} ids, {len(texts)} texts of {sizes:,.0f} pieces: own and other questions {len(has[True])}, {len(has[False])}")  # fmt: skip
        for column, by in enumerate(("words", "words and encoder")[: 1 + (encoder is not None)]):
            rates = {
                gate: [100 * np.mean([row[column] >= gate for row in has[own]] or [np.nan]) for own in (True, False)]
                for gate in GATES
            }
            today = [100 * np.mean([row[column] for row in enough[own]] or [np.nan]) for own in (True, False)]
            shown = ", ".join(f"{gate}: {own:.0f} / {other:.0f}" for gate, (own, other) in rates.items())
            print(f"by {by}, found in per cent at {shown}; as chosen {today[0]:.0f} / {today[1]:.0f}", flush=True)


if __name__ == "__main__":
    main()
