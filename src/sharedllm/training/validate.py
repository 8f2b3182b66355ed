"""Validation during training: the loss of fixed target tokens by length of the context before them, and recall."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..data.rows import RowMaker
from ..data.shards import TokenStore
from ..data.spans import Spans
from ..model.targets import IGNORE
from ..utils.errors import UserError
from .batches import collate
from .losses import RowLosses, autocast
from .recipe import Recipe


@dataclass(frozen=True)
class Targets:
    """Running texts (n, W) that are scored in their last half, with all the text before them (n, longest)."""

    running: np.ndarray
    before: np.ndarray


def choose_targets(store: TokenStore, window: int, longest: int, rows: int, seed: int) -> Targets:
    """Choose up to `rows` places, evenly over documents that have `longest` + `window` tokens.

    Raises:
        UserError: no document is long enough.
    """
    rng = random.Random(seed)
    need = longest + window
    long = [i for i, n in enumerate(store.lengths) if n >= need]
    if not long:
        raise UserError(
            f"{store.folder}: no validation document has {need:,} tokens, the longest has {int(max(store.lengths)):,}: "
            "lower validation.windows."
        )
    pieces = []
    for row in range(rows):
        document = long[row % len(long)]
        start = rng.randrange(int(store.lengths[document]) - need + 1)
        pieces.append(store.read(document, start, need))
    texts = np.stack(pieces)
    return Targets(texts[:, longest:], texts[:, :longest])


@torch.no_grad()
def loss_by_length(
    losses: nn.Module, targets: Targets, lengths: list[int], device: torch.device, precision: str, batch: int = 8
) -> dict[int, float]:
    """Mean loss of the targets, in nats, with `length` tokens of context; 0 for none."""
    running = torch.from_numpy(targets.running).to(device)
    labels = running.clone()
    labels[:, : running.shape[1] // 2] = IGNORE
    result = {}
    for length in lengths:
        values = []
        for rows in torch.arange(len(running)).split(batch):
            context: dict[str, Tensor] = {}
            if length:
                ids = torch.from_numpy(targets.before[rows.numpy(), -length:]).to(device)
                context = {"context": ids, "context_mask": torch.ones_like(ids, dtype=torch.bool)}
                # Policies that need a question get the beginning of the running text, which is not a target.
                context |= {"query": running[rows, :16], "query_mask": torch.ones_like(running[rows, :16]).bool()}
            with autocast(device, precision):
                results = losses(running[rows], torch.ones_like(running[rows]).bool(), labels[rows], **context)
            values += results.loss.tolist()
        result[length] = float(np.mean(values))
    return result


@torch.no_grad()
def recall(
    losses: RowLosses,
    maker: RowMaker,
    store: TokenStore,
    kind: str,
    context: int,
    running: int,
    rows: int,
    seed: int,
    device: torch.device,
    precision: str,
    strides: list[int] | None = None,
    batch: int = 8,
) -> float:
    """Share of samples of a kind in which the likeliest token is right at every labelled position.

    strides: for reading contexts; None for the model's own.
    """
    spans = Spans(store, context + running, seed)
    rng = random.Random(seed)
    made = [maker.make(kind, rng, spans, number, context, running) for number in range(rows)]
    hits: list[bool] = []
    for first in range(0, rows, batch):
        part = collate(made[first : first + batch])
        inputs = {name: tensor.to(device) for name, tensor in part.tensors().items() if name != "weights"}
        with autocast(device, precision):
            hits += losses(**inputs, strides=strides).right.tolist()
    return float(np.mean(hits))


def loss_before(
    losses: RowLosses, recipe: Recipe, stores: dict[str, TokenStore], window: int | None, device: torch.device
) -> dict[str, float]:
    """Loss of each domain's targets without a context, inside the window, if validation measures that too.

    Measured before the first step it shows, beside later ones, what a model forgets of its base.
    """
    result = {}
    for name, (targets, lengths) in _targets(recipe, stores, window).items():
        if 0 in lengths:
            result[name] = loss_by_length(losses, targets, [0], device, recipe.precision)[0]
    return result


def lengths_of(recipe: Recipe, store: TokenStore, window: int | None) -> tuple[list[int], list[int]]:
    """Lengths of context that a domain's validation documents have, and those wanted ones that none of them has."""
    running = recipe.phases()[-1].running
    longest = max(store.lengths) - running
    wanted = [int(w * (window or running)) for w in recipe.validation.windows if recipe.stage != "base" or w == 0]
    return [n for n in wanted if n <= longest], [n for n in wanted if n > longest]


def _targets(recipe: Recipe, stores: dict[str, TokenStore], window: int | None) -> dict[str, tuple[Targets, list[int]]]:
    """For each domain the targets, and the lengths of context that its documents have."""
    settings, running = recipe.validation, recipe.phases()[-1].running
    found = {name: lengths_of(recipe, store, window)[0] for name, store in stores.items()}
    return {
        name: (choose_targets(stores[name], running, max(lengths), settings.rows, 1), lengths)
        for name, lengths in found.items()
        if lengths
    }


def validation_of(
    losses: RowLosses,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    stores: dict[str, TokenStore],
    window: int | None,
    shared: bool,
    device: torch.device,
) -> dict[str, Any]:
    """Loss by context length for each domain, and "recall" by kind of sample, as the recipe asks for them.

    Args:
        stores: validation tokens of each domain. window: the model's; None: the running text's length. shared: whether it is
            a SharedLLM, which reads with strides.
    """
    settings, running = recipe.validation, recipe.phases()[-1].running
    window, reads = window or running, recipe.stage != "base"
    result: dict[str, Any] = {
        name: loss_by_length(losses, targets, lengths, device, recipe.precision)
        for name, (targets, lengths) in _targets(recipe, stores, window).items()
    }
    maker = RowMaker(tokenizer, "validation", recipe.data.chat)
    store, context = next(iter(stores.values())), window if reads else 0
    strides = settings.strides if shared else None
    if settings.task_rows and max(store.lengths) >= context + running:
        result["recall"] = {
            kind: recall(
                losses, maker, store, kind, context, running, settings.task_rows, 2, device, recipe.precision, strides
            )
            for kind in settings.tasks
        }
    return result
