"""Operations of each contender by formula: two for each multiply-add of a matrix product, norms and the like not counted.

Attention counts in full as the plainest kernel computes it, also what a mask hides; with `causal=True` only what the mask
lets through, which is what has to be done, and what rates are told by.

Notation: E hidden, I intermediate, Q = H · D and K = G · D the widths of queries and of keys.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from ..context.tree import chunks, preserved_nodes, sample
from ..model.config import SharedLLMConfig


@dataclass(frozen=True)
class Operations:
    """Of reading the context, of the first token behind it, and of the tokens decoded after that one."""

    read: int
    first: int
    decode: int

    @property
    def total(self) -> int:
        return self.read + self.first + self.decode


@dataclass(frozen=True)
class Costs:
    """What the parts of a decoder layer cost, a token or a pair of query and key."""

    layers: int
    kv: int
    rest: int
    query_output: int
    pair: int
    head: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Costs":
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
        width = heads * head_dim
        around = 2 * 2 * hidden * width
        return cls(
            layers=config.num_hidden_layers,
            kv=2 * 2 * hidden * config.num_key_value_heads * head_dim,
            rest=around + 2 * 3 * hidden * config.intermediate_size,
            query_output=around,
            # q kᵀ, and the weights times v.
            pair=2 * 2 * width,
            head=2 * hidden * config.vocab_size,
        )

    @property
    def layer(self) -> int:
        """All linear parts of a layer, a token."""
        return self.kv + self.rest


def pairs(new: int, past: int = 0, causal: bool = False) -> int:
    """Pairs of query and key where `new` tokens see `past` tokens and themselves."""
    return new * past + (new * (new + 1) // 2 if causal else new * new)


def run(costs: Costs, new: int, past: int = 0, causal: bool = False) -> int:
    """The whole decoder without its head: `new` tokens behind `past` ones."""
    return costs.layers * (new * costs.layer + pairs(new, past, causal) * costs.pair)


def run_in_blocks(costs: Costs, new: int, past: int, block: int, causal: bool = False) -> int:
    """The same, with at most `block` tokens at once."""
    return sum(run(costs, min(block, new - start), past + start, causal) for start in range(0, new, block))


def decode(costs: Costs, running: int, new_tokens: int, far: int = 0) -> int:
    """Tokens one by one behind `running` ones; `far`, pairs beyond those of all layers, a token."""
    steps = sum(run(costs, 1, running + step) for step in range(new_tokens))
    return steps + new_tokens * (far * costs.pair + costs.head)


def kept_tokens(config: SharedLLMConfig, length: int) -> int:
    """S, how many tokens of a text SharedLLM's trees keep."""
    roots = chunks(torch.tensor([length]), config.chunk_size)
    return len(sample(preserved_nodes(roots, len(config.strides)), tuple(config.strides)))


def shared_read(
    config: SharedLLMConfig, length: int, keep_all: bool = False, plain: bool = False, causal: bool = False
) -> int:
    """The lower model over all units (nodes, or chunks), and keys and values of what is kept.

    Layers below M − 1 run whole; layer M − 1 has keys and values of all tokens and everything else of the kept ones; of
    layer M there are keys and values of the kept ones. `plain`: M whole layers, and keys and values from what they made.
    """
    costs, strides = Costs.of(config.text_config), (1,) if keep_all else tuple(config.strides)
    roots = chunks(torch.tensor([length]), config.chunk_size)
    nodes = preserved_nodes(roots, len(strides))
    samples = sample(nodes, strides, config.keep)
    if config.encoding == "node":
        start, lengths, unit = nodes.start, nodes.length, samples.node
    else:
        start, unit = (roots.start - config.overlap).clamp(min=0), samples.chunk
        lengths = roots.end - start
    seen = samples.position - start[unit] + 1 if causal else lengths[unit]
    whole, depth = sum(pairs(n, 0, causal) for n in lengths.tolist()), config.lower_layers - 1
    tokens, kept = int(lengths.sum()), len(samples)
    full = tokens * costs.layer + whole * costs.pair
    total = len(config.injection_map) * kept * costs.kv
    if plain:
        return total + config.lower_layers * full
    if depth > 0:
        total += (depth - 1) * full + tokens * costs.kv + kept * costs.rest + int(seen.sum()) * costs.pair
    return total


def shared_answer(
    config: SharedLLMConfig, kept: int, running: int, block: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    """First token and decoding over a memory of `kept` tokens, which the layers of the injection map see."""
    costs, injected = Costs.of(config.text_config), len(config.injection_map) if kept else 0
    # A cross-attention has its own projections of queries and output; a joint softmax uses self-attention's.
    own = costs.query_output * injected if config.injection == "cross" else 0
    first = run_in_blocks(costs, running, 0, block, causal) + running * (own + injected * kept * costs.pair)
    first += -(-running // block) * costs.head
    return first, decode(costs, running, new_tokens, injected * kept) + new_tokens * own


def shared_select(config: SharedLLMConfig, length: int, question: int, causal: bool = False) -> int:
    """A question's attention over every token of a text: its queries again, and their products with keys twice."""
    costs, injected = Costs.of(config.text_config), len(config.injection_map)
    return run(costs, question, 0, causal) + injected * question * (costs.query_output // 2 + length * costs.pair)


def streaming_read(
    config: PreTrainedConfig, length: int, window: int, block: int, kept: int = 0, causal: bool = False
) -> tuple[int, int]:
    """Blocks of tokens over what the cache holds, `kept` tokens at the beginning; also what it holds at the end."""
    costs, total = Costs.of(config), 0
    for start in range(0, length, block):
        new = min(block, length - start)
        total += run(costs, new, kept, causal)
        kept = min(kept + new, window - block)
    return total, kept


def streaming_answer(
    config: PreTrainedConfig, kept: int, running: int, window: int, block: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    costs = Costs.of(config)
    first, kept = streaming_read(config, running, window, block, kept, causal)
    steps = sum(run(costs, 1, min(kept + step, window - block)) for step in range(new_tokens))
    return first + costs.head, steps + new_tokens * costs.head


def beacon_read(config: PreTrainedConfig, length: int, total: int, causal: bool = False) -> tuple[int, int]:
    """Windows of raw tokens and their beacons over the memory; also how many tokens the memory has at the end.

    Of the last layer there are only keys and values.
    """
    costs, ratio, done, memory, operations = Costs.of(config.text_config), config.ratio_for(total), 0, 0, 0
    while done < length:
        # From the end of the text, so the first window may be shorter.
        raw = (length - done) % config.stride or config.stride
        beacons = -(-raw // ratio)
        new = raw + beacons
        operations += costs.layers * new * costs.kv
        operations += (costs.layers - 1) * (new * costs.rest + pairs(new, memory, causal) * costs.pair)
        sinks = config.sinks if done == 0 else 0
        memory, done = min(memory + sinks + beacons, config.room), done + raw
    return operations, memory


def beacon_answer(
    config: PreTrainedConfig, memory: int, running: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    costs = Costs.of(config.text_config)
    return run(costs, running, memory, causal) + costs.head, decode(costs, running + memory, new_tokens)


def cepe_read(config: PreTrainedConfig, length: int, project: bool = True) -> int:
    """The encoder over chunks, the last one padded, and keys and values of every decoder layer."""
    encoder, costs = config.encoder_config, Costs.of(config.text_config)
    width, tokens = encoder.hidden_size, -(-length // config.chunk_size) * config.chunk_size
    linear = 2 * (4 * width**2 + 3 * width * encoder.intermediate_size)
    total = encoder.num_hidden_layers * tokens * (linear + config.chunk_size * 2 * 2 * width)
    return total + project * costs.layers * tokens * _projection(config)


def cepe_answer(
    config: PreTrainedConfig,
    length: int,
    running: int,
    block: int,
    new_tokens: int,
    project: bool = True,
    causal: bool = False,
) -> tuple[int, int]:
    """First token and decoding with cross-attention in every layer; projections in every pass where they are not kept."""
    costs = Costs.of(config.text_config)
    tokens = -(-length // config.chunk_size) * config.chunk_size
    again = 0 if project else costs.layers * tokens * _projection(config)
    own = costs.layers * costs.query_output
    first = run_in_blocks(costs, running, tokens, block, causal) + running * own
    first += -(-running // block) * (costs.head + again)
    return first, decode(costs, running + tokens, new_tokens) + new_tokens * (own + again)


def _projection(config: PreTrainedConfig) -> int:
    """Keys and values of one decoder layer, a token of the encoder's."""
    text = config.text_config
    return Costs.of(text).kv * config.encoder_config.hidden_size // text.hidden_size


def full_read(config: PreTrainedConfig, length: int, block: int, causal: bool = False) -> int:
    return run_in_blocks(Costs.of(config), length, 0, block, causal)


def full_answer(
    config: PreTrainedConfig, past: int, running: int, block: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    """Also of the window alone, with nothing before it."""
    costs = Costs.of(config)
    first = run_in_blocks(costs, running, past, block, causal) + -(-running // block) * costs.head
    return first, decode(costs, running + past, new_tokens)
