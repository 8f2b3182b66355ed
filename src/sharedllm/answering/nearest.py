"""Narrowing what is asked before pieces are selected: a corpus gives the documents that a question needs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..memory.interface import Searched
from ..memory.segments import Source
from ..utils.text import decode


def narrowed(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    prompt: Tensor,
    own: Tensor | None = None,
) -> Source:
    """A source without memories that can't be selected from at once: each is replaced by its documents for a question.

    Args:
        prompt: (1, Q) the question. own: (1, Q) bool, its own words; default: all of it.
    """
    several = source if isinstance(source, Sequence) else [source]
    if not any(isinstance(memory, Searched) for memory in several):
        return source
    own = own if own is not None else torch.ones_like(prompt, dtype=torch.bool)
    question = decode(tokenizer, prompt[0][own[0].to(prompt.device)].tolist())
    prefix = list(model.config.prefix or [])
    begun = len(prefix) if prefix and prompt[0, : len(prefix)].tolist() == prefix else 0
    asked, own = prompt[:, begun:], own[:, begun:]
    found = [
        memory.nearest(model.model, question, asked, own) if isinstance(memory, Searched) else memory
        for memory in several
    ]
    return found if isinstance(source, Sequence) else found[0]
