"""Questions for which every line of a text matters: how many utterances are about X, and which X is the most frequent
(CLINC150)."""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from ....utils.errors import UserError
from ..meter import Meter
from .base import Builder, Item, PackedText, Question, TextSpec, read_set

ASKED = 8
MOST = 10


@dataclass(frozen=True)
class Counting:
    """Lines of utterances (Larson et al., arXiv 1909.02027): eight intents occur one to ten times, others fill the text.

    Labels with even and odd numbers form the halves.
    """

    name: str = "clinc"
    metrics: tuple[str, ...] = ("number",)
    instruction: str = "Answer with one number, or with one name."
    new_tokens: int = 12

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        by_label: dict[str, list[str]] = defaultdict(list)
        for record in read_set(spec.folder, "clinc150"):
            if record["label"] != "oos":
                by_label[record["label"]].append(record["text"])
        if spec.length < 256:
            raise UserError(f"length={spec.length}: {self.name} needs texts of at least 256 tokens.")
        labels = sorted(by_label)
        mine = [label for number, label in enumerate(labels) if spec.takes(number)]
        for number in count():
            yield self._text(by_label, mine, spec, meter, number)

    def _text(
        self, by_label: dict[str, list[str]], mine: list[str], spec: TextSpec, meter: Meter, number: int
    ) -> PackedText:
        rng = random.Random(f"{spec.seed} {self.name} {spec.length} {spec.half} {number}")
        asked = rng.sample(mine, ASKED)
        # One count is the largest, so that the most frequent intent is unique.
        counts = dict(zip(asked, [MOST, *(rng.randint(1, MOST - 2) for _ in asked[1:])], strict=True))
        lines = [(label, text) for label in asked for text in rng.sample(by_label[label], counts[label])]
        left = spec.length - sum(meter.count(f"{text}\n") for _, text in lines)
        rest = [(label, text) for label, texts in by_label.items() if label not in counts for text in texts]
        if not rest:
            raise UserError(f"{self.name}: there are too few intents besides the {ASKED} in questions.")
        while left > 0:
            for label, text in rng.sample(rest, len(rest)):
                left -= meter.count(f"{text}\n")
                if left <= 0:
                    break
                lines.append((label, text))
        rng.shuffle(lines)
        text, places = "", defaultdict(list)
        for label, line in lines:
            places[label].append((len(text), len(text) + len(line)))
            text += f"{line}\n"
        name = f"{self.name}-{spec.length}-{number}"
        spoken = {label: label.replace("_", " ") for label in asked}
        questions = [
            Question(
                f"{name}-{i}", f'How many of these lines are about "{spoken[label]}"?', (str(counts[label]),),
                tuple(places[label]), name, "count",
            )
            for i, label in enumerate(asked)
        ]  # fmt: skip
        some = rng.sample(asked, len(asked))
        options = ", ".join(f'"{spoken[label]}"' for label in some)
        best = max(asked, key=lambda label: counts[label])
        evidence = tuple(sorted(place for label in asked for place in places[label]))
        most = Question(
            f"{name}-most", f"Which of these is asked about in the most lines: {options}?", (spoken[best],),
            evidence, name, "most frequent",
        )  # fmt: skip
        builder = Builder()
        item = Item(name, text)
        builder.add(item)
        return builder.done(name, [(item, [*questions, most][: spec.per_text])], meter)
