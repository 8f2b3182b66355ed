"""From token ids and masks to running text and context: pure functions, independent of models."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..utils.errors import UserError, named_type


def check_some(name: str, ids: Tensor) -> None:
    """
    Raises:
        UserError: it is no tensor, there is no row, or no token in a row.
    """
    if not isinstance(ids, Tensor):
        raise UserError(f"{name} is {named_type(ids)}: pass a tensor of token ids of shape (B, T).")
    if ids.numel() == 0:
        raise UserError(f"{name} has shape {tuple(ids.shape)}: give at least one row, of at least one token.")


def check_ids(name: str, ids: Tensor, mask: Tensor | None, vocab_size: int | None = None) -> Bool[Tensor, "B T"]:
    """Check ids and return their (B, T) bool mask; all True if none is given.

    Raises:
        UserError: ids that are not a (B, T) integer tensor or have no values, a mask of another shape, or an id outside the
            vocabulary.
    """
    if not isinstance(ids, Tensor):
        raise UserError(f"{name} is {named_type(ids)}: pass a tensor of token ids of shape (B, T).")
    if ids.ndim != 2 or ids.is_floating_point():
        raise UserError(f"{name} has shape {tuple(ids.shape)} and dtype {ids.dtype}: pass integer ids of shape (B, T).")
    if ids.is_meta:  # where ids go that follow an offloaded model
        raise UserError(
            f"{name} is on the meta device, which holds no values: pass ids of the CPU, and load the whole model on one device, "
            "without an offloading device_map."
        )
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise UserError(
            f"the mask of {name} has shape {tuple(mask.shape)}, the ids {tuple(ids.shape)}: make them equal."
        )
    mask = mask.bool()
    # What is exported can't decide by values.
    if vocab_size is not None and not torch.compiler.is_exporting() and mask.any():
        outside = mask & ((ids < 0) | (ids >= vocab_size))
        if outside.any():
            raise UserError(f"{name} holds id {int(ids[outside][0])}, but the vocabulary has {vocab_size} entries.")
    return mask


def left_align(
    ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> tuple[Int[Tensor, "B T_longest"], Int[Tensor, " B"]]:
    """Move the real tokens of each row to its front, in order.

    Returns:
        ids (B, T') padded with 0 at the end, T' the longest row, and lengths (B,).
    """
    lengths = mask.sum(1)
    width = int(lengths.max()) if len(lengths) else 0
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, :width]
    real = torch.arange(width, device=ids.device) < lengths[:, None]
    return ids.gather(1, order) * real, lengths


def cat_ragged(
    first: Int[Tensor, "B T"],
    first_lengths: Int[Tensor, " B"],
    second: Int[Tensor, "B U"],
    second_lengths: Int[Tensor, " B"],
) -> Int[Tensor, "B V"]:
    """Rows of `first` (cut to their lengths) followed by rows of `second`, padded with 0 at the end."""
    lengths = first_lengths + second_lengths
    out = first.new_zeros(len(first), int(lengths.max()) if len(lengths) else 0)
    for row, (a, b) in enumerate(zip(first_lengths.tolist(), second_lengths.tolist(), strict=True)):
        out[row, :a] = first[row, :a]
        out[row, a : a + b] = second[row, :b]
    return out


@dataclass(frozen=True)
class Split:
    """Input cut in two: the running text at the end, the context before it.

    running_ids, running_mask   (B, R) left-padded, R at most the window
    running_columns             (B, R) column of each running token in the input; meaningless where padded
    context_ids, context_mask   (B, T) right-padded; T may be 0
    """

    running_ids: Int[Tensor, "B R"]
    running_mask: Bool[Tensor, "B R"]
    running_columns: Int[Tensor, "B R"]
    context_ids: Int[Tensor, "B T"]
    context_mask: Bool[Tensor, "B T"]


def split_context(ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], running: int | Int[Tensor, " B"]) -> Split:
    """Split each row: its last `running` real tokens (one number, or one per row) are running text, the rest is
    context.

    Rows may be padded on either side; in the result running texts are left-padded and contexts right-padded, so that a
    row's result does not depend on the rest of the batch.
    """
    batch, width = ids.shape
    rank_from_end = mask.flip(1).cumsum(1).flip(1)  # 1 for the last real token of a row
    is_running = mask & (rank_from_end <= (running if isinstance(running, int) else running[:, None]))
    columns = torch.arange(width, device=ids.device).expand(batch, width)
    kept = int(is_running.sum(1).max()) if batch else 0
    order = torch.argsort(is_running.to(torch.int8), dim=1, stable=True)[:, width - kept :]
    running_mask = is_running.gather(1, order)
    context_ids, lengths = left_align(ids, mask & ~is_running)
    context_mask = torch.arange(context_ids.shape[1], device=ids.device) < lengths[:, None]
    return Split(ids.gather(1, order), running_mask, columns.gather(1, order), context_ids, context_mask)
