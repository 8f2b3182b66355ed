"""Loss by how far back a target was last mentioned (T2): where a far context can help, and whether it harms elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...systems.evaluated import Scores
from ..corpus import Documents
from .base import Setting, Text
from .loss import Loss

GROUPS = ("in the window", "up to 4 windows", "farther", "new")


@dataclass(frozen=True)
class Mentions:
    """The same targets as `loss`. A mention is an earlier occurrence of the target token after the same previous token.

    Groups are computed with the longest preceding text, so that they contain the same targets at every length: last
    mentioned within every target's window, up to four windows back, farther, or never.
    """

    name: str = "loss-by-mention"
    accuracy: bool = False

    def texts(self, documents: Documents, length: int, setting: Setting) -> Iterator[Text]:
        longest = Loss().texts(documents, setting.longest, setting)
        for text, whole in zip(Loss().texts(documents, length, setting), longest, strict=True):
            back = distances(whole.ids, text.targets)
            edges = [setting.window - text.targets, 4 * setting.window, len(whole.ids) + 1]
            yield replace(text, groups=np.searchsorted(edges, back))

    def values(self, text: Text, scores: Scores) -> dict[str, float]:
        nats = -scores.log_probs[0].double().numpy()
        found = {"loss": float(nats.mean())}
        for number, group in enumerate(GROUPS):
            if (text.groups == number).any():
                found[group] = float(nats[text.groups == number].mean())
        return found


def distances(ids: np.ndarray, targets: int) -> np.ndarray:
    """(targets,) how many tokens back each of the last tokens last followed its own predecessor; more than len if never."""
    pairs = ids[:-1].astype(np.int64) << 32 | ids[1:]
    back = np.full(targets, len(ids) + 2, dtype=np.int64)
    for place in range(targets):
        at = len(pairs) - targets + place
        before = np.flatnonzero(pairs[:at] == pairs[at])
        if len(before):
            back[place] = at - before[-1]
    return back
