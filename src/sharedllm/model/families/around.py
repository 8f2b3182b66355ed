"""What stands around a family's layers: embedding, head, and what its language model adds to them."""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def multiplied(config: PreTrainedConfig, states: Tensor) -> Tensor:
    """Granite's embeddings; those of Gemma are multiplied by their own module."""
    return states * config.embedding_multiplier


def divided_logits(config: PreTrainedConfig, logits: Tensor) -> Tensor:
    """Granite."""
    return logits / config.logits_scaling


def scaled_logits(config: PreTrainedConfig, logits: Tensor) -> Tensor:
    """Cohere."""
    return logits * config.logit_scale


def capped_logits(config: PreTrainedConfig, logits: Tensor) -> Tensor:
    """Gemma 2 and 3, where the configuration says so."""
    most = config.final_logit_softcapping
    return logits if most is None else torch.tanh(logits / most) * most


def longrope_border(config: PreTrainedConfig) -> int | None:
    """Phi-3 turns by other frequencies once a text is longer than what it was first trained on, what is cached included."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None


def balance_loss(decoder: Any, router_logits: Any, attention_mask: Tensor | None) -> Tensor:
    """The loss that keeps the experts of a mixture balanced, by the function of the base's own module; not yet weighted.

    Args:
        decoder: whose class says which family it is of. router_logits: by layer, as transformers records them.
        attention_mask: (B, L); None if all is text.
    """
    config = decoder.config
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    loss = sys.modules[type(decoder).__module__].load_balancing_loss_func
    return loss(router_logits, experts, config.num_experts_per_tok, attention_mask)
