"""The second copy of a span, far after the first (T4)."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...systems.evaluated import Scores
from ..corpus import Documents
from .base import DoesNotFit, Setting, Text

SPAN, CUE = 32, 8


@dataclass(frozen=True)
class Copying:
    """A span of 32 tokens from another place, `length` tokens of text, and the span again: its last 24 tokens are scored."""

    name: str = "copy"
    accuracy: bool = True

    def texts(self, documents: Documents, length: int, setting: Setting) -> Iterator[Text]:
        if length < SPAN:
            raise DoesNotFit(f"{self.name}: a span of {SPAN} tokens does not fit into a length of {length:,}")
        chosen, _ = documents.long_enough(setting.longest + SPAN)
        rng = random.Random(f"{setting.seed} {documents.domain}")
        for case in range(setting.cases):
            document = chosen[case % len(chosen)]
            source = rng.choice(chosen)
            span = documents.read(source, rng.randrange(documents.lengths[source] - SPAN + 1), SPAN)
            start = rng.randrange(documents.lengths[document] - setting.longest + 1)
            between = documents.read(document, start, length - SPAN)
            ids = np.concatenate([span, between, span])
            yield Text(ids, SPAN - CUE, {"document": documents.names[document], "case": case})

    def values(self, text: Text, scores: Scores) -> dict[str, float]:
        return {"accuracy": float(scores.hits.float().mean()), "loss": -float(scores.log_probs.double().mean())}
