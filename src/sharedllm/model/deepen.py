"""Depth as a second grain: what a question selected is read on, together, from layer M to the top (beyond the paper).

Every token of a text is read through the bottom M layers, chunk by chunk, and the residual stream entering layer M is
kept. Of a question's tokens the few that were selected stand one after the other, in the order of the text, after the
prefix; layers M … N − 1 are run over them as over any prompt, each token seeing those before it. Their keys and values
are then what all layers of the upper model see before the running text. So facts that look alike are told apart by
reading them together, and only what is selected costs more than M layers.

A text of one chunk, selected whole, is read exactly as the base reads it in its window.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from ..memory.context_memory import ContextMemory
from ..utils.errors import UserError
from .attention import KeyValueSpan, attend
from .config import SharedLLMConfig
from .cross_attention import PreparedMemory
from .families import Family, family_of, sliding_window
from .rope import Rotation, rotate, rotation


def deepen(memory: ContextMemory, config: SharedLLMConfig, upper: PreTrainedModel) -> PreparedMemory | None:
    """Read the tokens of a memory on, from layer M to the top, and give them their positions.

    Args:
        memory: S selected tokens of each of B texts, with their residual streams entering layer M.
        upper: the base's decoder, of N layers.

    Returns:
        Keys and values of all N layers: of the prefix and the selected tokens at positions 0 … p + S − 1, where the
        running text goes on. In bottom layers that keep no keys, of the prefix alone. None if there is neither prefix
        nor token.

    Raises:
        UserError: the memory holds no residual streams, or more tokens than the base has positions for.
    """
    if not memory.residuals:
        raise UserError("the memory holds no residual streams: read the text again with this model.")
    family, prefix = family_of(upper.config), torch.tensor(config.prefix or [], device=memory.mask.device)
    before, kept = len(prefix), memory.mask.shape[1]
    if before + kept == 0:
        return None
    most = upper.config.max_position_embeddings
    if before + kept > most:
        raise UserError(
            f"{kept} tokens are selected, and the base has {most} positions: select fewer, by a budget of at most "
            f"{config.window // 2}, say."
        )
    texts, residual = len(memory), memory.residuals[0][:, 0]
    positions = torch.arange(before + kept, device=residual.device)[None]
    by = rotation(upper.rotary_emb, positions, residual)
    start, after = (by[0][:, :before], by[1][:, :before]), (by[0][:, before:], by[1][:, before:])
    # Right padding is seen by nobody but itself, as attention is causal; the running text has to be told.
    seen = torch.cat([memory.mask.new_ones(texts, before), memory.mask], 1)
    bias = None
    if not seen.all():
        lowest = torch.finfo(residual.dtype).min
        bias = torch.zeros(seen.shape, dtype=residual.dtype, device=residual.device).masked_fill(~seen, lowest)
        bias = bias[:, None, None]
    pair = {index: place for place, (index, _) in enumerate(config.injection_map)}
    layers: dict[int, KeyValueSpan] = {}
    hidden = upper.get_input_embeddings()(prefix.long())[None].to(residual.dtype)
    for index in range(config.lower_layers):
        hidden, keys, values = _layer(upper, family, index, hidden, start)
        keys, values = (t.expand(texts, -1, -1, -1) for t in (keys, values))
        if index in pair:
            kept_keys = rotate(memory.keys[pair[index]], after)
            keys, values = torch.cat([keys, kept_keys], 2), torch.cat([values, memory.values[pair[index]]], 2)
        elif not before:
            continue
        layers[index] = (keys.contiguous(), values.contiguous(), bias if index in pair else None)
    hidden = torch.cat([hidden.expand(texts, -1, -1), residual], 1)
    last = len(upper.layers) - 1
    for index in range(config.lower_layers, last + 1):
        # Of the last layer nobody reads more than keys and values.
        hidden, keys, values = _layer(upper, family, index, hidden, by, whole=index < last)
        layers[index] = (keys, values, bias)
    return PreparedMemory(
        layers=layers,
        present=seen.any(1)[:, None, None],
        begin=before + memory.mask.sum(1),
    )


def _layer(
    upper: PreTrainedModel, family: Family, index: int, hidden: Tensor, by: Rotation, whole: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer over (B, L, E) from position 0 on: its output, and rotated keys and values (B, G, L, D).

    whole: False for keys and values only; the output is then the input.
    """
    layer = upper.layers[index]
    attention = getattr(layer, family.attention)
    normed = family.attention_input(layer, hidden)
    keys, values = (t.transpose(1, 2).contiguous() for t in family.keys_values(attention, normed))
    keys = rotate(keys, by)
    if not whole or not hidden.shape[1]:
        return hidden, keys, values
    queries = rotate(family.queries(attention, normed).transpose(1, 2), by)
    attended = _causal(attention, upper.config, index, queries, keys, values)
    return family.combine(layer, hidden, getattr(attention, family.output)(attended)), keys, values


def _causal(attention: nn.Module, config, index: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention as the base has it: (B, L, H · D)."""
    sliding, length = sliding_window(config, index), queries.shape[2]
    if config._attn_implementation == "sdpa" and (sliding is None or sliding >= length) and not torch.is_grad_enabled():
        out = scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=attention.scaling, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(2)
    columns = torch.arange(length, device=queries.device)
    distance = columns[:, None] - columns
    allowed = (distance >= 0) if sliding is None else (distance >= 0) & (distance < sliding)
    return attend(attention, config._attn_implementation, queries, keys, values, allowed[None, None])
