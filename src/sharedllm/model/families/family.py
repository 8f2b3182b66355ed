"""A family's entry: how a decoder layer is taken apart, and what surrounds the layers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..rope import Rotation
from .projections import separate_keys_values, separate_queries
from .turning import as_given
from .wiring import Combine, pre_norm_input, wired


def unchanged(config: PreTrainedConfig, states: Tensor) -> Tensor:
    return states


def any_length(config: PreTrainedConfig) -> int | None:
    return None


@dataclass(frozen=True)
class Family:
    """How one kind of decoder is taken apart.

    attention       attribute of the layer that holds its self-attention
    attention_norm  attribute of the layer that holds the norm before self-attention; None if there is none
    output          attribute of the attention that holds its output projection
    attention_input (layer, hidden) → input of self-attention
    combine         (layer, residual, attended, inject) → the layer's output
    queries         (attention, hidden) → query heads before RoPE
    keys_values     (attention, hidden) → key and value heads, keys before RoPE
    query_parts     submodules of the attention that queries and output need, if present
    query_projections  the ones among them that project queries
    memory_parts    submodules of the attention that keys and values need, if present
    traits          plain attributes of the attention that this entry's functions use
    layer_traits    the same of the layer
    rotary_by_type  the rotary embedding needs the layer's type
    turn            (attention, transformers' cosines and sines, positions) → rotations of its queries and of its keys
    embed           (configuration, embeddings) → input of the first layer
    logits          (configuration, output of the head) → logits
    balanced        its language model adds a load-balancing loss for experts, if the configuration asks for it
    border          (configuration) → length after which the rotary frequencies of all positions change, cached ones
                    too; or None
    check           (configuration) → why a base of this family can't be used, or None
    tested          differences from Llama's layers, for the table of families in the documentation
    """

    attention: str = "self_attn"
    attention_norm: str | None = "input_layernorm"
    output: str = "o_proj"
    attention_input: Callable[[Any, Tensor], Tensor] = pre_norm_input
    combine: Combine = field(default_factory=wired)
    queries: Callable[[Any, Tensor], Tensor] = separate_queries
    keys_values: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = separate_keys_values
    query_parts: tuple[str, ...] = ("q_proj", "q_norm", "o_proj")
    query_projections: tuple[str, ...] = ("q_proj",)
    memory_parts: tuple[str, ...] = ("k_proj", "k_norm", "v_proj")
    traits: tuple[str, ...] = ()
    layer_traits: tuple[str, ...] = ()
    rotary_by_type: bool = False
    turn: Callable[[Any, tuple[Tensor, Tensor], Tensor | None], tuple[Rotation, Rotation]] = as_given
    embed: Callable[[PreTrainedConfig, Tensor], Tensor] = unchanged
    logits: Callable[[PreTrainedConfig, Tensor], Tensor] = unchanged
    balanced: bool = False
    border: Callable[[PreTrainedConfig], int | None] = any_length
    check: Callable[[PreTrainedConfig], str | None] = lambda config: None
    tested: str = "as Llama"

    @property
    def plain(self) -> bool:
        """Whether all layers are alike and nothing special surrounds them, so that simpler systems can be built on it."""
        usual = self.turn is as_given and self.embed is unchanged and self.logits is unchanged
        return usual and not self.traits and not self.rotary_by_type

    def norm_of(self, layer: nn.Module) -> nn.Module:
        """The norm before self-attention, or an identity."""
        return nn.Identity() if self.attention_norm is None else getattr(layer, self.attention_norm)

    def parts(self, attention: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
        """The named submodules or parameters that an attention has."""
        return {name: part for name in names if (part := getattr(attention, name, None)) is not None}

    def lend_traits(self, attention: nn.Module, to: nn.Module) -> None:
        """Give a module that replaces an attention the attributes that this entry's functions use besides its parts."""
        for name in ("head_dim", "num_key_value_groups", "config", *self.traits):
            setattr(to, name, getattr(attention, name))
