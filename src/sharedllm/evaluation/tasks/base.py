"""The interface of a task: texts whose last tokens are scored, and numbers computed from the scores."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...systems.evaluated import EvaluatedSystem, Scores
from ...utils.errors import UserError
from ..corpus import Documents

QUERY_TOKENS = 32


@dataclass(frozen=True)
class Setting:
    """Settings shared by all cells of an evaluation.

    window        W, tokens; the unit of lengths       longest   the longest length, in tokens
    cases         places per document, or questions per length     seed   of places, keys and answers
    batch_tokens  most tokens scored together (one text at least)
    """

    tokenizer: PreTrainedTokenizerBase
    window: int
    longest: int
    cases: int
    seed: int = 0
    batch_tokens: int = 16_384


@dataclass(frozen=True)
class Text:
    """Tokens (T,) of which the last `targets` are scored; `label` goes into the record.

    groups  kind of each target (targets,), for tasks that report kinds separately
    """

    ids: np.ndarray
    targets: int
    label: dict[str, Any]
    groups: np.ndarray | None = None


class DoesNotFit(UserError):
    """A length is too short for a task's content."""


class Task(Protocol):
    """One kind of measurement."""

    @property
    def name(self) -> str: ...

    @property
    def accuracy(self) -> bool:
        """Whether its first number is a share of successes (higher is better), not a loss."""
        ...

    def texts(self, documents: Documents, length: int, setting: Setting) -> Iterator[Text]:
        """All texts of a length, the same for every system.

        Raises:
            DoesNotFit: the length is too short for this task. UserError: no document is long enough.
        """
        ...

    def values(self, text: Text, scores: Scores) -> dict[str, float]:
        """Numbers of one text from its scores (1, targets); the first is the main one."""
        ...


def score_texts(system: EvaluatedSystem, texts: Iterable[Text], batch_tokens: int) -> Iterator[tuple[Text, Scores]]:
    """Scores of each text; texts of equal length are batched."""
    batch: list[Text] = []
    for text in texts:
        if batch and (len(text.ids) != len(batch[0].ids) or (len(batch) + 1) * len(text.ids) > batch_tokens):
            yield from _score(system, batch)
            batch = []
        batch.append(text)
    if batch:
        yield from _score(system, batch)


@torch.no_grad()
def _score(system: EvaluatedSystem, batch: list[Text]) -> Iterator[tuple[Text, Scores]]:
    ids = torch.from_numpy(np.stack([text.ids for text in batch]))
    # Use the beginning of the shortest answer for all, so that a query never contains a target.
    queries = [text.ids[-text.targets - QUERY_TOKENS : -text.targets] for text in batch]
    width = min(map(len, queries))
    query = torch.from_numpy(np.stack([q[len(q) - width :] for q in queries]))
    targets = max(text.targets for text in batch)
    near = min(ids.shape[1], system.running)
    if near <= targets:
        raise UserError(
            f"{system.name} reads {near:,} tokens of running text, but {targets:,} are to be scored: score fewer."
        )
    device = system.model.device
    ids, query = ids.to(device), query.to(device)
    state = system.prepare(ids[:, : ids.shape[1] - near], query)
    scores = system.score(state, ids[:, ids.shape[1] - near :], targets)
    log_probs, hits = scores.log_probs.cpu(), scores.hits.cpu()
    for row, text in enumerate(batch):
        part = slice(targets - text.targets, None)
        yield text, Scores(log_probs[row : row + 1, part], hits[row : row + 1, part])
