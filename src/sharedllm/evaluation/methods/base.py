"""What every way of reading a long text with a short window can do, and what scores are."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Of the target tokens: log-probabilities (B, n) in nats, and whether each is the likeliest token (B, n)."""

    log_probs: Tensor
    hits: Tensor


class Method(Protocol):
    """Reads a far context once, then scores running texts behind it.

    The evaluation cuts a text: its last tokens, at most as many as `running` says, are the running text, everything
    before is the far context. A method may use as much of that as it can.
    """

    @property
    def running(self) -> int:
        """Most tokens of running text."""
        ...

    @property
    def name(self) -> str: ...

    def prepare(self, far: Tensor, query: Tensor) -> Any:
        """Read the far context.

        Args:
            far: (B, T) token ids, T may be 0. query: (B, Q) what the answer will be about, for methods that search.
        """
        ...

    def score(self, state: Any, running: Tensor, targets: int) -> Scores:
        """Score the last `targets` tokens of the running text (B, L), L > targets, given all before each of them."""
        ...


def scores_of(logits: Tensor, running: Tensor, targets: int) -> Scores:
    """Scores from the logits (B, at least targets + 1, V) of the end of the running text."""
    logits, wanted = logits[:, -targets - 1 : -1].float(), running[:, -targets:]
    log_probs = torch.log_softmax(logits, -1).gather(-1, wanted[..., None])[..., 0]
    return Scores(log_probs, logits.argmax(-1) == wanted)
