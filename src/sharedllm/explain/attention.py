"""How much of its attention an answer paid to each token of a memory, layer by layer.

The model runs once over question and answer. Beside every layer that reads the memory a hook takes the queries and keys
that this layer attends with and works out the softmax by itself, in fp32: what the layer computes is left alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..model.attention import KeyValueSpan, in_full
from ..model.injection import Injection, injection_of


@dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer, mean over its heads and the tokens of the answer.

    layer   index of the upper layer
    tokens  (S,) fp32 on the CPU, paid to each kept token of the memory. With a joint softmax the rest, to 1, went to
            the running text; with cross-attention there is no rest
    gate    what the layer multiplies its cross-attention by, in −1 … 1; None without a gate
    """

    layer: int
    tokens: Tensor
    gate: float | None = None


@torch.no_grad()
def attention_paid(
    model: SharedLLMForCausalLM, memory: ContextMemory, question_ids: Tensor, answer_ids: Tensor
) -> list[LayerAttention]:
    """What was attended to while an answer was written, one entry for each layer that reads the memory.

    A token of the answer is written by the pass over the token before it, so it is that one's attention which counts:
    of the last token of the question, and of all of the answer but its last.

    Args:
        memory: of one text, what the answer was given over. question_ids: (1, Q). answer_ids: (1, A), A ≥ 1.
    """
    width = memory.mask.shape[1]
    layers = {index: injection_of(model.model.upper.layers[index]) for _, index in model.config.injection_map}
    running = torch.cat([question_ids, answer_ids[:, :-1]], 1).to(model.device)
    paid = {index: torch.zeros(width) for index in layers}

    def record(index: int, weights: Tensor) -> None:
        paid[index] = weights[:width].cpu()

    with _recorded(layers, question_ids.shape[1] - 1, record):
        model.model(running, memory=memory, use_cache=False)
    gates = {index: injection.gate for index, injection in layers.items()}
    return [
        LayerAttention(index, tokens, None if gates[index] is None else float(torch.tanh(gates[index].float())))
        for index, tokens in paid.items()
    ]


@contextmanager
def _recorded(layers: dict[int, Injection], first: int, record: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While this is open each injection reports its weights, (keys,), of the queries from `first` on."""
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
    # One head at a time: a large budget times all heads and tokens would be large.
    for head in range(heads):
        scores = queries[0, head, first:].float() @ keys[0, head // (heads // groups)].float().T * attention.scaling
        total += torch.softmax(scores + added, -1).mean(0)
    record(total / heads)


def _added(span: KeyValueSpan, queries: Tensor) -> Tensor:
    """What is added to a span's scores, (B, 1, L, S)."""
    keys, _, bias = span
    bias = queries.new_zeros(1) if bias is None else bias
    return bias.expand(len(queries), 1, queries.shape[2], keys.shape[2])
