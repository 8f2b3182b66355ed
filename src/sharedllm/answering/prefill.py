"""Telling how far the reading of a prompt is: a long one in a large window takes minutes before the first token."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..causal_lm import SharedLLMForCausalLM

# Called with the tokens of the prompt that were read, and with all of them.
Progress = Callable[[int, int], None]


@contextmanager
def following(model: SharedLLMForCausalLM, progress: Progress | None) -> Iterator[None]:
    """Call `progress` while a prompt is read, the first that the model runs over in this context.

    All tokens go through one layer after the other, so after n of N layers n / N of the tokens count as read.
    """
    layers = model.model.upper.layers
    passed = 0

    def count(layer: Any, inputs: Any, output: Tensor) -> None:
        nonlocal passed
        passed += 1
        if progress is not None and passed <= len(layers):
            progress(output.shape[1] * passed // len(layers), output.shape[1])

    hooks = [] if progress is None else [layer.register_forward_hook(count) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
