"""The base's decoder as the rest of the package sees it: by what the decoders of all supported families have."""

from typing import TypeGuard

from torch import nn
from transformers import PreTrainedModel


class Decoder(PreTrainedModel):
    """The type of such a model, a LlamaModel say. Nothing is made of this class itself.

    layers        decoder layers, bottom first; what they are made of differs by family (see `families`)
    embed_tokens  token embedding
    norm          what the last layer's output goes through
    rotary_emb    rotary embedding: cosines and sines of positions
    """

    layers: nn.ModuleList
    embed_tokens: nn.Embedding
    norm: nn.Module
    rotary_emb: nn.Module


class LanguageModel(PreTrainedModel):
    """The type of a decoder with its head on it, a LlamaForCausalLM say."""

    lm_head: nn.Linear


def is_decoder(model: PreTrainedModel) -> TypeGuard[Decoder]:
    """Whether a model has what a `Decoder` has."""
    return all(hasattr(model, name) for name in ("layers", "embed_tokens", "norm", "rotary_emb"))


def has_head(model: PreTrainedModel) -> TypeGuard[LanguageModel]:
    """Whether a model is a causal language model: one with a head over a decoder."""
    return hasattr(model, "lm_head")
