"""Reading deeper: the tokens that a question selects are read together from layer M to the top (beyond the paper).

Every token of a text is read through the bottom M layers, chunk by chunk, and the residual stream entering layer M is
kept. The few tokens that a question selects follow the prefix, in the order of the text. Layers M … N − 1 run over them
as over any prompt: each token sees those before it. All layers of the upper model then see their keys and values before
the running text. Facts that look alike are told apart by reading them together, and only selected tokens cost more than
M layers.

A text of one chunk, selected whole, is read exactly as the base reads it in its window.
"""

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor

from ..memory.context_memory import ContextMemory
from ..memory.fingerprint import raw_bytes
from ..utils.errors import UserError
from .attention import KeyValueSpan
from .config import SharedLLMConfig
from .cross_attention import PreparedMemory
from .decoder import Decoder
from .layer_run import Before, LayerRun
from .lower import LowerModel

# Rotated keys and values (1, G, p, D) of the prefix, for each of the N layers.
Prefix = list[Before]


def deepen(
    memory: ContextMemory, config: SharedLLMConfig, upper: Decoder, prefix: Prefix | None = None
) -> PreparedMemory | None:
    """Read the tokens of a memory from layer M to the top, and give them their positions.

    Args:
        memory: S selected tokens of each of B texts, with their residual streams entering layer M.
        upper: the base's decoder, of N layers.
        prefix: the result of `read_prefix`, if it is at hand.

    Returns:
        Keys and values of all N layers: the prefix and the selected tokens at positions 0 … p + S − 1, followed by the
        running text. Bottom layers that keep no keys have the prefix alone. None if there is neither a prefix nor a
        token.

    Raises:
        UserError: the memory holds no residual streams, or more tokens than the base has positions for.
    """
    if not memory.residuals:
        raise UserError("the memory holds no residual streams: read the text again with this model.")
    before, kept = len(config.prefix or []), memory.mask.shape[1]
    if before + kept == 0:
        return None
    most = upper.config.max_position_embeddings
    if before + kept > most:
        raise UserError(
            f"{kept:,} tokens are selected, but the base has {most:,} positions: select fewer, with a budget of at most "
            f"{config.window // 2}, say."
        )
    texts, hidden = len(memory), memory.residuals[0][:, 0]
    # Attention is causal, so no other token sees the right padding; only the running text needs a mask for it.
    seen = torch.cat([memory.mask.new_ones(texts, before), memory.mask], 1)
    bias = None
    if not seen.all():
        lowest = torch.finfo(hidden.dtype).min
        bias = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~seen, lowest)
        bias = bias[:, None, None]
    prefix = prefix or read_prefix(config, upper)
    start = [(keys.expand(texts, -1, -1, -1), values.expand(texts, -1, -1, -1)) for keys, values in prefix]
    pair = {index: place for place, (index, _) in enumerate(config.injection_map)}
    layers: dict[int, KeyValueSpan] = {}
    run, last = LayerRun(upper.layers, upper.rotary_emb, upper.config, hidden, before), len(upper.layers) - 1
    for index in range(config.lower_layers):
        keys, values = start[index]
        if index in pair:
            keys = torch.cat([keys, run.turned(index, memory.keys[pair[index]])], 2)
            values = torch.cat([values, memory.values[pair[index]]], 2)
        elif not before:
            continue
        layers[index] = (keys.contiguous(), values.contiguous(), bias if index in pair else None)
    for index in range(config.lower_layers, last + 1):
        # Only keys and values of the last layer are needed.
        hidden, keys, values = run.layer(index, hidden, start[index], whole=index < last)
        layers[index] = (keys, values, bias)
    return PreparedMemory(layers, present=seen.any(1)[:, None, None], begin=before + memory.mask.sum(1))


def read_prefix(config: SharedLLMConfig, upper: Decoder, layers: int | None = None) -> Prefix:
    """Rotated keys and values (1, G, p, D) of the prefix in so many layers, all N by default. No token before it changes
    them, so they are the same for every selection."""
    whole = LowerModel(
        upper.layers, upper.embed_tokens, upper.rotary_emb, upper.config, prefix=tuple(config.prefix or ())
    )
    return whole.read_prefix(layers or len(upper.layers))


def read_on(hidden: Tensor, config: SharedLLMConfig, upper: Decoder, prefix: Prefix, depth: int) -> Tensor:
    """Read pieces on from layer M, each by itself, after the prefix.

    Args:
        hidden: (B, L, E) residual streams of B pieces entering layer M, padded on the right.
        prefix: the result of `read_prefix`. depth: how many layers will have read them then, M or more.

    Returns:
        (B, L, E) the residual streams entering layer `depth`.
    """
    run = LayerRun(upper.layers, upper.rotary_emb, upper.config, hidden, len(config.prefix or []))
    for index in range(config.lower_layers, depth):
        hidden = run.layer(index, hidden, prefix[index])[0]
    return hidden


class Deepened:
    """Reads memories deeper and keeps the results for the next question that selects the same tokens: the most recent
    ones, up to a number of tokens. The prefix is read once for all of them.

    Keeps only memories that have a fingerprint, and nothing while gradients are recorded.
    """

    def __init__(self, tokens: int = 8192):
        self.tokens = tokens
        self._kept: OrderedDict[bytes, tuple[int, PreparedMemory]] = OrderedDict()
        self._prefix: tuple[str, Prefix] = ("", [])

    def of(self, memory: ContextMemory, config: SharedLLMConfig, upper: Decoder) -> PreparedMemory | None:
        """The result of `deepen`, kept or made now."""
        if torch.is_grad_enabled():
            return deepen(memory, config, upper)
        # A memory's fingerprint covers only the layers that read it, so weights above may have changed since.
        weights = repr([(p.data_ptr(), 0 if p.is_inference() else p._version) for p in upper.parameters()])
        mark = f"{weights} {config.prefix}"
        if self._prefix[0] != mark:
            self._prefix = mark, read_prefix(config, upper)
        if not memory.fingerprint:
            return deepen(memory, config, upper, self._prefix[1])
        digest = hashlib.blake2b(memory.fingerprint.encode())
        for tensor in (*memory.residuals, *memory.keys, *memory.values, memory.mask):
            digest.update(f"{tensor.dtype} {tensor.device} {tuple(tensor.shape)}".encode())
            digest.update(raw_bytes(tensor))
        digest.update(mark.encode())
        key = digest.digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        prepared = deepen(memory, config, upper, self._prefix[1])
        if prepared is not None:
            self._kept[key] = memory.mask.numel(), prepared
            while sum(size for size, _ in self._kept.values()) > self.tokens:
                self._kept.popitem(last=False)
        return prepared
