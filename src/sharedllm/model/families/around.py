"""The parts around a family's layers: embedding, head, and additions of its language model."""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def multiplied(config: PreTrainedConfig, states: Tensor) -> Tensor:
    """Granite's embeddings. Gemma's embedding module multiplies its own."""
    return states * config.embedding_multiplier


def divided_logits(config: PreTrainedConfig, logits: Tensor) -> Tensor:
    """Granite."""
    return logits / config.logits_scaling


def scaled_logits(config: PreTrainedConfig, logits: Tensor) -> Tensor:
    """Cohere."""
    return logits * config.logit_scale


def capped_logits(config: PreTrainedConfig, logits: Tensor) -> Tensor:
    """Gemma 2 and 3, if the configuration says so."""
    most = config.final_logit_softcapping
    return logits if most is None else torch.tanh(logits / most) * most


def longrope_border(config: PreTrainedConfig) -> int | None:
    """Phi-3 uses other rotary frequencies once a text, cached tokens included, is longer than its original training length."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None


def balance_loss(decoder: Any, router_logits: Any, running: int, attention_mask: Tensor | None) -> Tensor:
    """The load-balancing loss of a mixture of experts, computed by the base's own module over the running text (with a
    cache: over the new tokens); not yet weighted.

    Args:
        decoder: its class identifies the family. router_logits: by layer, as transformers records them.
        running: L, its number of tokens. attention_mask: (B, ≥ L) of 0 and 1, its own last; any other, or None: no padding.
    """
    mask = None if attention_mask is None or attention_mask.ndim != 2 else attention_mask[:, -running:]
    config = decoder.config
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    loss = sys.modules[type(decoder).__module__].load_balancing_loss_func
    return loss(router_logits, experts, config.num_experts_per_tok, mask)
