"""What a loss compares logits with: each token's next one, without padding."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..utils.errors import UserError

# What the loss leaves out, in labels.
IGNORE = -100


def targets_of(inputs: Tensor | None, labels: Tensor | None, shift_labels: Tensor | None, vocab_size: int) -> Tensor:
    """(B, L) what each token is to be followed by.

    Raises:
        UserError: labels of another shape than the input's, that are not whole numbers, or beyond the vocabulary.
    """
    name, given = ("shift_labels", shift_labels) if shift_labels is not None else ("labels", labels)
    shape = tuple(inputs.shape[:2]) if inputs is not None else ()
    assert given is not None
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


def without_padding(targets: Tensor, real: Tensor | None, shifted_here: bool) -> Tensor:
    """Padding predicts nothing and, where labels were given, is not predicted: they may hold padding's ids."""
    if real is None:
        return targets
    return targets.masked_fill(~(real & pad(real[:, 1:], (0, 1)) if shifted_here else real), IGNORE)


def counted(items: Tensor | int, targets: Tensor, given: Tensor) -> Tensor:
    """How many targets to divide by: of `items`, which count those of all batches, the share that `targets` are of those `given`
    with this one."""
    left, before = (targets != IGNORE).sum(), (given != IGNORE).sum()
    share = torch.where(left > 0, left / before.clamp(min=1), torch.ones_like(left, dtype=torch.float32))
    return torch.as_tensor(items, device=targets.device) * share
