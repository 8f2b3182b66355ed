"""What a loss compares logits with: each token's next one, without padding; and that loss."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..utils.errors import UserError

# What the loss leaves out, in labels.
IGNORE = -100


def targets_of(
    inputs: Tensor | None,
    attention_mask: Tensor | None,
    labels: Tensor | None,
    shift_labels: Tensor | None,
    vocab_size: int,
    logits_to_keep: int | Tensor = 0,
) -> Tensor | None:
    """(B, L) the next token of each place, `IGNORE` where nothing is learnt; None without labels.

    Args:
        inputs: (B, L) ids, or (B, L, E) embeddings. attention_mask: where it is (B, L) it says what is padding. labels,
            shift_labels: (B, L), shifted here or already. logits_to_keep: of the model's output.

    Raises:
        UserError: not all logits are kept; labels of another shape than the input's, that are not whole numbers, or beyond the
            vocabulary.
    """
    if labels is None and shift_labels is None:
        return None
    if not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
        raise UserError(
            f"logits_to_keep={logits_to_keep} with labels: the loss needs all logits; leave one of them out."
        )
    targets = _checked(inputs, labels, shift_labels, vocab_size)
    if attention_mask is None or inputs is None or attention_mask.shape != inputs.shape[:2]:
        return targets
    # Padding predicts nothing and, where labels were given, is not predicted: they may hold padding's ids.
    real = attention_mask.bool()
    return targets.masked_fill(~(real & pad(real[:, 1:], (0, 1)) if shift_labels is None else real), IGNORE)


def _checked(inputs: Tensor | None, labels: Tensor | None, shift_labels: Tensor | None, vocab_size: int) -> Tensor:
    """(B, L) what each token is to be followed by. Raises as `targets_of`."""
    name, given = ("shift_labels", shift_labels) if shift_labels is not None else ("labels", labels)
    shape = tuple(inputs.shape[:2]) if inputs is not None else ()
    if not isinstance(given, Tensor) or given.is_floating_point():
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise UserError(f"{name} is of {kind}: pass token ids, whole numbers.")
    if given.shape != shape:
        raise UserError(f"{name} has shape {tuple(given.shape)}, the input {shape}: make them equal.")
    outside = (given != IGNORE) & ((given < 0) | (given >= vocab_size))
    if not torch.compiler.is_exporting() and outside.any():
        raise UserError(
            f"{name} holds {int(given[outside][0])}, but the vocabulary has {vocab_size} entries: {IGNORE} stands for no target."
        )
    given = given.long()
    return given if shift_labels is not None else pad(given[:, 1:], (0, 1), value=IGNORE)


def counted(items: Tensor | int, targets: Tensor, given: Tensor) -> Tensor:
    """How many targets to divide by: of `items`, which count those of all batches, the share that `targets` are of those `given`
    with this one."""
    left, before = (targets != IGNORE).sum(), (given != IGNORE).sum()
    share = torch.where(left > 0, left / before.clamp(min=1), torch.ones_like(left, dtype=torch.float32))
    return torch.as_tensor(items, device=targets.device) * share


def loss_of(
    loss_function: Callable[..., Tensor], logits: Tensor, targets: Tensor, items: Tensor | int | None
) -> Tensor:
    """The loss of logits (B, L, V) and targets (B, L). items: what their sum is divided by, if not by their number."""
    unshifted = pad(targets[:, :-1], (1, 0), value=IGNORE)  # for loss functions that shift by themselves
    divided = {} if items is None else {"num_items_in_batch": items}
    return loss_function(logits, unshifted, vocab_size=logits.shape[-1], shift_labels=targets, **divided)
