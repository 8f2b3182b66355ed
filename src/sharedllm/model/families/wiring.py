"""How a decoder layer feeds its attention and adds up the outputs of its attention and MLP."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Most numbers of the residual stream that an MLP takes at once (2,048 tokens of 4,096); inside it has several times as many.
_NUMBERS = 2**23

# Adds the injection to the residual stream between attention and MLP.
Inject = Callable[[Tensor], Tensor]
# (layer, residual, attended, inject) → the layer's output, all (B, L, E).
Combine = Callable[..., Tensor]


def pre_norm_input(layer: Any, hidden: Tensor) -> Tensor:
    return layer.input_layernorm(hidden)


def no_norm_input(layer: Any, hidden: Tensor) -> Tensor:
    return hidden


def wired(
    after_attention: str | None = None,
    before_mlp: str | None = "post_attention_layernorm",
    after_mlp: str | None = None,
    multiplier: str | None = None,
) -> Combine:
    """The `combine` of a layer that adds attention and MLP to the residual stream one after the other.

    Args:
        after_attention, before_mlp, after_mlp: attributes of the layer that hold norms.
        multiplier: attribute of the layer that holds a factor for both additions.
    """

    def combine(layer: Any, residual: Tensor, attended: Tensor, inject: Inject | None = None) -> Tensor:
        hidden = residual + _times(layer, multiplier, _normed(layer, after_attention, attended))
        if inject is not None:
            hidden = inject(hidden)
        return hidden + _times(layer, multiplier, _in_pieces(layer, mlp, hidden))

    def mlp(layer: Any, some: Tensor) -> Tensor:
        out = layer.mlp(_normed(layer, before_mlp, some))
        # gpt-oss also returns its router's decisions.
        return _normed(layer, after_mlp, out[0] if isinstance(out, tuple) else out)

    return combine


def parallel_combine(layer: Any, residual: Tensor, attended: Tensor, inject: Inject | None = None) -> Tensor:
    """Cohere: attention and MLP both read the normed residual stream."""
    hidden = residual + attended
    if inject is not None:
        hidden = inject(hidden)
    return hidden + _in_pieces(layer, lambda layer, some: layer.mlp(layer.input_layernorm(some)), residual)


_in_sequence = wired()


def maybe_parallel_combine(layer: Any, residual: Tensor, attended: Tensor, inject: Inject | None = None) -> Tensor:
    """StableLM has both kinds."""
    combine = parallel_combine if layer.use_parallel_residual else _in_sequence
    return combine(layer, residual, attended, inject)


def _normed(layer: nn.Module, name: str | None, states: Tensor) -> Tensor:
    return states if name is None else getattr(layer, name)(states)


def _times(layer: nn.Module, name: str | None, states: Tensor) -> Tensor:
    return states if name is None else states * getattr(layer, name)


def _in_pieces(layer: Any, work: Callable[[Any, Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Apply a layer's norm and MLP to (B, L, E), some tokens at a time if there are no gradients.

    Mixtures of experts take all tokens at once, because transformers records the router's decisions per call.
    """
    if hidden.numel() <= _NUMBERS or torch.is_grad_enabled() or hasattr(layer.mlp, "experts"):
        return work(layer, hidden)
    flat = hidden.flatten(0, -2)[None]
    out, step = torch.empty_like(flat), max(1, _NUMBERS // hidden.shape[-1])
    for start in range(0, flat.shape[1], step):
        out[:, start : start + step] = work(layer, flat[:, start : start + step])
    return out.view(hidden.shape)
