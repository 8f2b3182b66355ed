"""Micro-batches by number: the rows of step s, micro-batch m, padded into tensors."""

import bisect
import functools
import itertools
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.rows import Row, RowMaker
from ..data.shards import TokenStore
from ..data.spans import Spans
from ..model.targets import IGNORE
from ..utils.errors import UserError
from .recipe import Phase, Recipe


@dataclass(frozen=True)
class Batch:
    """B rows; tensors int64 or bool, padding on the left of the running text and on the right of everything else.

    kinds      kind of each row
    running    (B, L) and its mask     labels  (B, L), -100 where there is no target
    context    (B, T) and its mask, T may be 0     query  (B, Q) and its mask
    weights    (B,) weight of each row's mean loss
    shifts     the contexts that each row sees, as distances to their rows in the batch; 0 is the row's own
    strides    strides of the tree's levels, None for the model's own
    """

    kinds: list[str]
    running: Tensor
    running_mask: Tensor
    labels: Tensor
    context: Tensor
    context_mask: Tensor
    query: Tensor
    query_mask: Tensor
    weights: Tensor
    shifts: list[int]
    strides: list[int] | None = None

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @property
    def tokens(self) -> int:
        return int(self.running_mask.sum() + self.context_mask.sum())


class Batches:
    """All micro-batches of a run. The k-th row of a domain is its k-th sample, whatever the hardware.

    Args:
        stores: the training tokens of each domain.
    """

    def __init__(self, recipe: Recipe, stores: dict[str, TokenStore], maker: RowMaker):
        self.recipe, self.stores, self.maker = recipe, stores, maker
        self.phases = recipe.phases()
        ends = list(itertools.accumulate(phase.share for phase in self.phases))
        # The first step of each phase, and the last step + 1.
        self.starts = [0] + [round(end * recipe.steps) for end in ends]
        self.per_step = recipe.batch_tokens // recipe.micro_tokens

    def phase_of(self, step: int) -> int:
        """Index of the phase of a step."""
        return bisect.bisect_right(self.starts, min(step, self.recipe.steps - 1)) - 1

    def rows_in_micro_batch(self, phase: Phase) -> int:
        return self.recipe.micro_tokens // phase.length

    def spans(self, domain: str, length: int) -> Spans:
        return self._spans(domain, length)

    @functools.cache  # noqa: B019 (one object a run)
    def _spans(self, domain: str, length: int) -> Spans:
        joiner = None
        if self.recipe.data.cross_documents:
            joiner = self.maker.tokenizer.eos_token_id
            if joiner is None:
                raise UserError("data.cross_documents needs a tokenizer with an end-of-text token.")
        return Spans(self.stores[domain], length, self.recipe.seed, joiner)

    @functools.cache  # noqa: B019
    def _plan(self, index: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Domain of each row of a phase, and how many rows of that domain and length came before it, in earlier phases too: a
        phase goes on in the text where the last one of its length ended."""
        phase, shares = self.phases[index], self.recipe.domain_weights()
        steps = self.starts[index + 1] - self.starts[index]
        rows = steps * self.per_step * self.rows_in_micro_batch(phase)
        drawn = np.random.default_rng([self.recipe.seed, index]).choice(len(shares), rows, p=list(shares.values()))
        alike = [earlier for earlier in range(index) if self.phases[earlier].length == phase.length]
        before = sum(
            (np.bincount(self._plan(one)[1], minlength=len(shares)) for one in alike), np.zeros(len(shares), int)
        )
        ordinals = np.zeros(rows, dtype=np.int64)
        for domain in range(len(shares)):
            here = drawn == domain
            ordinals[here] = before[domain] + np.arange(here.sum())
        return list(shares), drawn, ordinals

    def __call__(self, step: int, micro: int) -> Batch:
        """Micro-batch `micro` of step `step`."""
        index = self.phase_of(step)
        phase, seed = self.phases[index], self.recipe.seed
        names, domains, ordinals = self._plan(index)
        count = self.rows_in_micro_batch(phase)
        first = ((step - self.starts[index]) * self.per_step + micro) * count
        rows = []
        for number in range(first, first + count):
            rng = random.Random(f"{seed}/{index}/{number}")
            kind = rng.choices(list(phase.kinds), phase.kinds.values())[0]
            spans = self.spans(names[domains[number]], phase.length)
            sample = int(ordinals[number])
            rows.append(self.maker.make(kind, rng, spans, sample, phase.context, phase.running, phase.questions))
        rng = random.Random(f"{seed}/{step}/{micro}")
        others = min(rng.choices(list(phase.distractors), phase.distractors.values())[0], count - 1)
        shifts = rng.sample(range(1, count), others) if others > 0 else []
        # A row's own context is usually the nearest one, as in a long text.
        shifts.insert(len(shifts) if rng.random() < 0.6 else rng.randrange(len(shifts) + 1), 0)
        strides = rng.choice(phase.strides) if phase.strides else None
        return collate(rows, self.recipe.weights, shifts, strides)


def collate(
    rows: list[Row], weights: dict[str, float] | None = None, shifts: list[int] | None = None, strides=None
) -> Batch:
    """Join rows of any lengths into one padded batch."""
    running, running_mask = _pad([row.running for row in rows], left=True)
    labels, _ = _pad([row.labels for row in rows], left=True, fill=IGNORE)
    context, context_mask = _pad([row.context for row in rows])
    query, query_mask = _pad([row.query for row in rows])
    return Batch(
        kinds=[row.kind for row in rows],
        running=running,
        running_mask=running_mask,
        labels=labels,
        context=context,
        context_mask=context_mask,
        query=query,
        query_mask=query_mask,
        weights=torch.tensor([(weights or {}).get(row.kind, 1.0) for row in rows]),
        shifts=shifts or [0],
        strides=strides,
    )


def _pad(arrays: list[np.ndarray], left: bool = False, fill: int = 0) -> tuple[Tensor, Tensor]:
    width = max(map(len, arrays))
    ids = np.full((len(arrays), width), fill, dtype=np.int64)
    mask = np.zeros((len(arrays), width), dtype=bool)
    for row, array in enumerate(arrays):
        columns = slice(width - len(array), width) if left else slice(0, len(array))
        ids[row, columns], mask[row, columns] = array, True
    return torch.from_numpy(ids), torch.from_numpy(mask)
