"""The upper model: the base language model, with a memory injected into some of its layers.

Layers keep the base's submodules and parameter names, so base checkpoints, LoRA targets and sharding rules still apply.
"""

import copy
import functools
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .config import SharedLLMConfig
from .cross_attention import CrossAttention, PreparedMemory
from .decoder import Decoder
from .families import Family, family_of
from .injection import Injection
from .joint_attention import JointAttention
from .renamed import todays_name
from .self_attention import self_attend

_Module = TypeVar("_Module", bound=nn.Module)


class InjectedLayer(GradientCheckpointingLayer):
    """A decoder layer of the base that may read a memory: between self-attention and MLP, or in self-attention itself."""

    def __init__(self, layer: nn.Module, family: Family, injection: Injection | None, layer_index: int):
        nn.Module.__init__(self)
        for name, child in layer.named_children():
            self.add_module(name, child)
        for name in family.layer_traits:
            setattr(self, name, getattr(layer, name))
        self.family, self.injection, self.layer_index = family, injection, layer_index
        self.train(layer.training)

    def forward(self, hidden_states: Tensor, memory: PreparedMemory | None = None, **kwargs) -> Tensor:
        family, injection = self.family, self.injection
        attention, normed = getattr(self, family.attention), family.attention_input(self, hidden_states)
        if memory is None or injection is None:
            return family.combine(self, hidden_states, self_attend(family, attention, normed, **kwargs))
        attended, read = injection.memory_attention(attention, normed, self.layer_index, memory, **kwargs)
        return family.combine(self, hidden_states, attended, read)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """As in torch, but also from weights with old names."""
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[todays_name(name)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


@functools.cache
def _injected_class(layer_class: type[nn.Module]) -> type[nn.Module]:
    """An InjectedLayer that is also an instance of the base's layer class, because transformers finds layers by class
    to record hidden states, shard and checkpoint."""
    return type(f"Injected{layer_class.__name__}", (InjectedLayer, layer_class), {})


def _twin(module: _Module) -> _Module:
    """A second module over the same weights, with its own modes, hooks and submodules, so that activation checkpointing
    or recording of hidden states on one side does not affect the other."""
    twin = copy.copy(module)
    nn.Module.__init__(twin)
    for shared in ("_parameters", "_buffers", "_non_persistent_buffers_set", "training"):
        setattr(twin, shared, getattr(module, shared))
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else _twin(child)
    return twin


def inject(base: Decoder, injections: Mapping[int, Injection]) -> Decoder:
    """The base decoder, with layers that read a memory where `injections` (by layer) has an entry.

    The result shares all weights with `base`, which is not changed.
    """
    upper = _twin(base)
    # Let hidden-state recording start afresh: the base's flag would say that it has started.
    upper.__dict__.pop("_output_capturing_hooks_installed", None)
    family = family_of(base.config)
    for index, layer in enumerate(upper.layers):
        upper.layers[index] = _injected_class(type(layer))(layer, family, injections.get(index), index)
    return upper


def make_injections(base: Decoder, config: SharedLLMConfig) -> dict[int, Injection]:
    """The injection of each layer in the injection map; with injection="deep" of every layer."""
    family, injections = family_of(config.text_config), {}
    if config.injection == "deep":
        return {index: JointAttention(layer, family, False) for index, layer in enumerate(base.layers)}
    for lower_index, upper_index in config.injection_map:
        layer, own_projection = base.layers[upper_index], lower_index != upper_index
        if config.injection == "joint":
            injections[upper_index] = JointAttention(layer, family, own_projection)
        else:
            injections[upper_index] = CrossAttention(layer, family, own_projection, config.start)
    return injections
