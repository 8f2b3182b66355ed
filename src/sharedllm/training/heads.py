"""The hidden states that a model's head is given, and the head, without computing the logits of all tokens."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..model.families import family_of
from ..model.token_losses import Head
from ..utils.errors import UserError


@contextlib.contextmanager
def _caught(head: nn.Module) -> Iterator[list[Tensor]]:
    """Catches what a head is given, (B, L, E), and gives it no token instead."""
    states: list[Tensor] = []

    def catch(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        states.append(inputs[0])
        return (inputs[0][:, :0],)

    handle = head.register_forward_pre_hook(catch)
    try:
        yield states
    finally:
        handle.remove()


def states_and_head(call: Callable[..., Any], model: nn.Module, **inputs: Any) -> tuple[Tensor, Head]:
    """(B, L, E) hidden states and the function that makes logits of them.

    Args:
        call: runs the model, with what wraps it. model: a causal language model, or a system over one, of any kind.
    """
    after = _after_head(model.config)
    output = model.get_output_embeddings()
    if after is None or output is None:
        # What this model does to its logits is not known: its own are taken whole.
        return call(**inputs).logits, _unchanged
    with _caught(output) as states:
        call(**inputs)
    return states[-1], head_of(model)


def head_of(model: nn.Module, adapted: bool = True) -> Head:
    """Hidden states (…, E) → logits (…, V), with what the model's family does to them after its head.

    Args:
        adapted: with the adapters of the head, if there are any.
    """
    output, after = model.get_output_embeddings(), _after_head(model.config)
    assert after is not None, "a head is only taken from a model of a known family"
    plain = output if adapted else getattr(output, "base_layer", output)
    return lambda states: after(plain(states))


def head_is_frozen(model: nn.Module) -> bool:
    """Whether the model has a head of a known kind, in which nothing trains."""
    output = model.get_output_embeddings()
    if output is None or _after_head(model.config) is None:
        return False
    return not any(parameter.requires_grad for parameter in output.parameters())


def _after_head(config: PreTrainedConfig) -> Head | None:
    """What a family does to its head's output; None for a family that is not known."""
    config = getattr(config, "text_config", config)
    try:
        family = family_of(config)
    except UserError:
        return None
    return lambda logits: family.logits(config, logits)


def _unchanged(states: Tensor) -> Tensor:
    return states
