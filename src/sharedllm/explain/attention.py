"""How much attention an answer paid to each token of a memory, layer by layer.

The model runs once over question and answer. In every layer that reads the memory, a hook takes the layer's queries and
keys and computes the softmax separately, in fp32. The layer's own computation is not changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..model.attention import in_full
from ..model.injection import Injection, injection_of
from ..model.kernels import KeyValueSpan


@dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer, averaged over its heads and the tokens of the answer.

    layer   index of the upper layer
    tokens  (S,) fp32 on the CPU, attention to each kept token of the memory. With one softmax (joint, deep) the rest, up to
            1, is attention to the running text and the prefix before the memory; with cross-attention there is no rest
    gate    the layer's factor for its cross-attention, in −1 … 1; None without a gate
    """

    layer: int
    tokens: Tensor
    gate: float | None = None


@torch.no_grad()
def attention_paid(
    model: SharedLLMForCausalLM, memory: ContextMemory, question_ids: Tensor, answer_ids: Tensor
) -> list[LayerAttention]:
    """The attention paid while an answer was written, one entry for each layer that reads the memory.

    The pass over a token writes the next one, so the attention of the preceding tokens counts: the last token of the
    question and all of the answer but its last token.

    Args:
        memory: of one text, the memory that the answer was given over. question_ids: (1, Q). answer_ids: (1, A), A ≥ 1.
    """
    config, width = model.config, memory.mask.shape[1]
    reading, before = {index for _, index in config.injection_map}, 0
    if config.injection == "deep":
        # All layers from M on see the tokens, and the prefix, which is no part of the text, stands before them.
        reading |= {*range(config.lower_layers, len(model.model.upper.layers))}
        before = len(config.prefix or [])
    layers = {index: injection_of(model.model.upper.layers[index]) for index in sorted(reading)}
    running = torch.cat([question_ids, answer_ids[:, :-1]], 1).to(model.device)
    paid = {index: torch.zeros(width) for index in layers}

    def record(index: int, weights: Tensor) -> None:
        paid[index] = weights[before : before + width].cpu()

    with _recorded(layers, question_ids.shape[1] - 1, record):
        model.model(running, memory=memory, use_cache=False)
    return [LayerAttention(index, paid[index], _opened(injection)) for index, injection in layers.items()]


def _opened(injection: Injection) -> float | None:
    gate = injection.gate
    return None if gate is None else float(torch.tanh(gate.float()))


@contextmanager
def _recorded(layers: dict[int, Injection], first: int, record: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within this context each injection reports its weights (keys,) of the queries starting from `first`."""
    handles = []
    try:
        for index, injection in layers.items():
            hook = partial(_report, first=first, record=partial(record, index))
            handles.append(injection.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _report(injection: nn.Module, inputs: tuple, first: int, record: Callable[[Tensor], None]) -> None:
    attention, queries, spans, *_ = inputs
    keys = torch.cat([in_full(span)[0] for span in spans], 2)
    added = torch.cat([_added(span, queries)[0, 0, first:] for span in spans], 1)
    heads, groups = queries.shape[1], keys.shape[1]
    total = torch.zeros(keys.shape[2], device=keys.device)
    # One head at a time, because a large budget times all heads and tokens would be large.
    for head in range(heads):
        scores = queries[0, head, first:].float() @ keys[0, head // (heads // groups)].float().T * attention.scaling
        total += torch.softmax(scores + added, -1).mean(0)
    record(total / heads)


def _added(span: KeyValueSpan, queries: Tensor) -> Tensor:
    """The bias of a span's scores, (B, 1, L, S)."""
    keys, _, bias = span
    bias = queries.new_zeros(1) if bias is None else bias
    return bias.expand(len(queries), 1, queries.shape[2], keys.shape[2])
