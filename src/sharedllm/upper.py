"""The upper model: the base language model, with a memory injected into some of its layers.

The layers keep the base's submodules and parameter names, so base checkpoints, LoRA targets and sharding rules still fit.
"""

import copy
import functools

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .config import SharedLLMConfig
from .families import family_of
from .injection import CrossAttention, PreparedMemory
from .joint import JointAttention


class InjectedLayer(GradientCheckpointingLayer):
    """A decoder layer of the base that reads a memory: between self-attention and MLP, or in self-attention itself."""

    def __init__(self, layer: nn.Module, cross_attention: CrossAttention | JointAttention, layer_index: int):
        nn.Module.__init__(self)
        for name, child in layer.named_children():
            self.add_module(name, child)
        self.cross_attention = cross_attention
        self.layer_index = layer_index
        self.train(layer.training)

    def forward(self, hidden_states: Tensor, memory: PreparedMemory | None = None, **kwargs) -> Tensor:
        family, cross = self.cross_attention.family, self.cross_attention
        attention, normed = getattr(self, family.attention), family.attention_input(self, hidden_states)
        if memory is not None and isinstance(cross, JointAttention):
            return family.combine(self, hidden_states, cross(attention, normed, self.layer_index, memory, **kwargs))
        attended, _ = attention(hidden_states=normed, **kwargs)
        inject = None if memory is None else lambda hidden: cross(hidden, self.layer_index, memory)
        return family.combine(self, hidden_states, attended, inject)


@functools.cache
def _injected_class(layer_class: type[nn.Module]) -> type[nn.Module]:
    """An InjectedLayer that is also an instance of the base's layer class: recording of hidden states, sharding and
    checkpointing rules of transformers look layers up by class."""
    return type(f"Injected{layer_class.__name__}", (InjectedLayer, layer_class), {})


def _twin(module: nn.Module) -> nn.Module:
    """The same module over the same weights, with modes, hooks and submodules of its own: checkpointing of activations
    or recording of hidden states on one side does not reach the other."""
    twin = copy.copy(module)
    nn.Module.__init__(twin)
    for shared in ("_parameters", "_buffers", "_non_persistent_buffers_set", "training"):
        setattr(twin, shared, getattr(module, shared))
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else _twin(child)
    return twin


def inject(base: PreTrainedModel, config: SharedLLMConfig) -> PreTrainedModel:
    """The base decoder, with layers that read a memory where the injection map wants it.

    The result shares all weights with `base`, which itself stays as it is.
    """
    family = family_of(config.text_config)
    upper = _twin(base)
    # Recording of hidden states begins anew: the flag of the base would say that it has begun.
    upper.__dict__.pop("_output_capturing_hooks_installed", None)
    for lower_index, upper_index in config.injection_map:
        layer = upper.layers[upper_index]
        own_reader = lower_index != upper_index
        if config.injection == "joint":
            cross = JointAttention(layer, family, own_reader)
        else:
            cross = CrossAttention(layer, family, own_reader, config.start)
        upper.layers[upper_index] = _injected_class(type(layer))(layer, cross, upper_index)
    return upper
