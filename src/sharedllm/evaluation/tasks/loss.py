"""Loss of the same target tokens by the length of the text before them (T1), with controls for the cause (T3)."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...systems.evaluated import Scores
from ..corpus import Documents
from .base import DoesNotFit, Setting, Text


@dataclass(frozen=True)
class Loss:
    """The targets are the last W/4 tokens before fixed places; only the text before them changes.

    front: "own", the document's text; "other", another document's text beyond the window; "shuffled", the text beyond
    the window in pieces of 128 tokens in another order.
    """

    front: str = "own"
    accuracy: bool = False

    @property
    def name(self) -> str:
        return "loss" if self.front == "own" else f"loss-{self.front}"

    def texts(self, documents: Documents, length: int, setting: Setting) -> Iterator[Text]:
        targets = setting.window // 4
        chosen, _ = documents.long_enough(setting.longest + targets)
        rng = random.Random(f"{setting.seed} {documents.domain}")
        # At least one token comes before the first target.
        needed = max(length, 1) + targets
        far = needed - setting.window
        if far > 0 and self.front == "other" and len(chosen) < 2:
            alone = f"{documents.names[chosen[0]]} is the only document that is long enough"
            raise DoesNotFit(f"{self.name}, {documents.domain}, {length:,} tokens: {alone}; give another one.")
        for index, document in enumerate(chosen):
            span = documents.lengths[document] - setting.longest - targets
            count = min(setting.cases, span + 1)
            ends = sorted(rng.sample(range(span + 1), count))
            for end in (e + setting.longest + targets for e in ends):
                ids = documents.read(document, end - needed, needed)
                if far > 0 and self.front == "other":
                    other = chosen[(index + 1) % len(chosen)]
                    start = min(end - needed, documents.lengths[other] - far)
                    ids = np.concatenate([documents.read(other, start, far), ids[far:]])
                elif far > 0 and self.front == "shuffled":
                    pieces = [ids[i : min(i + 128, far)] for i in range(0, far, 128)]
                    random.Random(end).shuffle(pieces)
                    ids = np.concatenate([*pieces, ids[far:]])
                written = setting.tokenizer.decode(ids[-targets:])
                label = {"document": documents.names[document], "end": end, "bytes": len(written.encode())}
                yield Text(ids, targets, label)

    def values(self, text: Text, scores: Scores) -> dict[str, float]:
        nats = -float(scores.log_probs.double().mean())
        return {"loss": nats, "bits_per_byte": nats * text.targets / math.log(2) / text.label["bytes"]}
