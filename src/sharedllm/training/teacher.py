"""Self-distillation: the base that has the whole text in its own window, made of the model's own frozen weights."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..causal_lm import SharedLLMForCausalLM
from ..model.token_losses import Teacher
from ..utils.errors import UserError
from .heads import head_of
from .parts import part_of
from .recipe import Recipe


def check_teacher(recipe: Recipe, trained: Iterable[str], config: PreTrainedConfig) -> None:
    """Refuse a recipe whose base can't teach.

    Args:
        trained: names of the parameters that train. config: the model's.

    Raises:
        UserError: the base's own weights train, or a sample is longer than its positions.
    """
    # Without a memory nothing reads these, or they are switched off.
    apart = {"lora", "gates", "cross_attention"}
    if getattr(config, "lower_weights", "") == "copy":
        apart.add("lower_model")
    if own := sorted({part_of(name, config) for name in trained} - apart):
        raise UserError(
            f"distil needs the base's own weights frozen, but train has {own[0]}: train lora, gates and cross_attention, or "
            "leave distil out."
        )
    text = config.get_text_config()
    for phase in recipe.phases():
        longest = phase.context * (1 + max(phase.distractors)) + phase.running
        if longest > text.max_position_embeddings:
            raise UserError(
                f"distil lets the base read {longest} tokens at once, but it has {text.max_position_embeddings} positions: "
                "shorten context and running, or use fewer distractors."
            )


@torch.no_grad()
def teacher_of(
    wrapped: nn.Module, model: nn.Module, ids: Tensor, mask: Tensor, learnt: Tensor, temperature: float
) -> Teacher:
    """The base's view of the tokens before each label.

    Args:
        wrapped: the model, perhaps with adapters. model: without what wraps it.
        ids: (B, T) context and running text as one sequence, padded on the left; mask: (B, T).
        learnt: (B, L) whether the next token of each of the last L + 1 places but the last has a label.
    """
    decoder = model.model.upper if isinstance(model, SharedLLMForCausalLM) else model.get_decoder()
    with _without_adapters(wrapped):
        states = decoder(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    last = states[:, -learnt.shape[1] - 1 : -1]
    return Teacher(head_of(model, adapted=False), last[learnt], temperature)


@contextlib.contextmanager
def _without_adapters(model: nn.Module) -> Iterator[None]:
    """Switches the adapters of peft off, if there are any."""
    if not hasattr(model, "disable_adapter"):
        yield
        return
    # peft freezes adapters that are off, and lets all of them train afterwards.
    trains = [parameter.requires_grad for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, wanted in zip(model.parameters(), trains, strict=True):
            parameter.requires_grad_(wanted)
