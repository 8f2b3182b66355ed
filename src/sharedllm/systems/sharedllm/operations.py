"""Operations of SharedLLM by formula: reading, selecting, answering over a memory."""

import torch
from torch import Tensor

from ...context.tree import chunks, preserved_nodes, sample
from ...model.config import SharedLLMConfig
from ...scoring.meaning import Compared
from ...scoring.states import layers_kept
from ..operations import Costs, decode, pairs, run, run_in_blocks


def kept_tokens(config: SharedLLMConfig, length: int) -> int:
    """S, the number of tokens of a text that SharedLLM's trees keep."""
    roots = chunks(torch.tensor([length]), config.chunk_size)
    return len(sample(preserved_nodes(roots, len(config.strides)), tuple(config.strides)))


def shared_read(
    config: SharedLLMConfig,
    length: int,
    keep_all: bool = False,
    plain: bool = False,
    causal: bool = False,
    pieces: Tensor | None = None,
) -> int:
    """The lower model over all units (nodes, chunks or their pieces), and keys and values of the kept tokens.

    pieces: (n,) lengths of the pieces, of which every token is kept, for a model that reads chunks in pieces.

    Layers below M − 1 run whole. Layer M − 1 computes keys and values of all tokens and everything else only for kept
    ones; layer M only keys and values of kept ones. With injection="deep" layer M is one further up. `plain`: M whole layers, and keys and values from their
    output.
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
    if config.closing:
        assert pieces is not None and keep_all, "the text decides where its pieces end"
        lengths, unit = pieces, torch.repeat_interleave(torch.arange(len(pieces)), pieces)
        start = torch.cumsum(pieces, 0) - pieces
    # Every unit is read after the prefix, which is read once.
    before = len(config.prefix or [])
    seen = samples.position - start[unit] + 1 + before if causal else lengths[unit] + before
    whole = sum(pairs(n, before, causal) for n in lengths.tolist())
    # Deepening goes on from what enters layer M, so all of the layers below it run.
    depth = config.lower_layers - (config.injection != "deep")
    tokens, kept = int(lengths.sum()), len(samples)
    full = tokens * costs.layer + whole * costs.pair
    total = len(config.injection_map) * kept * costs.kv
    layers = config.lower_layers if plain else depth
    if before and layers:
        total += (layers - 1) * (before * costs.layer + pairs(before, 0, causal) * costs.pair) + before * costs.kv
    if plain or kept == tokens:
        return total + layers * full
    if depth > 0:
        total += (depth - 1) * full + tokens * costs.kv + kept * costs.rest + int(seen.sum()) * costs.pair
    return total


def shared_answer(
    config: SharedLLMConfig, kept: int, running: int, block: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    """First token and decoding over a memory of `kept` tokens, which the layers of the injection map read."""
    costs, injected = Costs.of(config.text_config), len(config.injection_map) if kept else 0
    # A cross-attention has its own query and output projections; a joint softmax uses self-attention's.
    own = costs.query_output * injected if config.injection == "cross" else 0
    first = run_in_blocks(costs, running, 0, block, causal) + running * (own + injected * kept * costs.pair)
    first += -(-running // block) * costs.head
    return first, decode(costs, running, new_tokens, injected * kept) + new_tokens * own


def shared_select(config: SharedLLMConfig, length: int, question: int, causal: bool = False) -> int:
    """A question's attention over every token of a text: recomputed queries, and two products with the keys."""
    costs, injected = Costs.of(config.text_config), len(config.injection_map)
    return run(costs, question, 0, causal) + injected * question * (costs.query_output // 2 + length * costs.pair)


def deep_select(config: SharedLLMConfig, length: int, question: int, causal: bool = False) -> int:
    """The question through the layers below its heads, and its product with each head's keys of every token."""
    costs, heads = Costs.of(config.text_config), config.selection_heads or []
    depth = int(max((layer for layer, _, _ in heads), default=0))
    # The last of these layers gives queries only for tokens that it has run whole.
    bottom = depth * (question * costs.layer + pairs(question, len(config.prefix or []), causal) * costs.pair)
    queries = len({int(layer) for layer, _, _ in heads}) * question * costs.query_output // 2
    return (
        bottom + queries + len(heads) * question * length * costs.pair // (2 * config.text_config.num_attention_heads)
    )


def deep_compare(config: SharedLLMConfig, compared: Compared, causal: bool = False) -> int:
    """The question and pieces that are read through layers to be compared, and the product of each token that is compared with each of
    the question's."""
    costs, before, kept = Costs.of(config.text_config), len(config.prefix or []), layers_kept(config)
    total = 0
    for length in compared.read.tolist():
        total += length * costs.layer + pairs(length, before, causal) * costs.pair
    layers = (config.meaning_layers or 0) - (kept or 0)
    asked = compared.asked * costs.layer + pairs(compared.asked, before, causal) * costs.pair
    products = 2 * config.text_config.hidden_size * compared.tokens * compared.asked
    return layers * total + compared.layers * asked + products + int(compared.encoded)


def deep_answer(
    config: SharedLLMConfig, kept: int, running: int, new_tokens: int, causal: bool = False, again: bool = False
) -> int:
    """A question of `running` tokens over `kept` ones that are read deeper from layer M for it, its first token, and
    the decoded ones. The prefix was read before, once for all questions.

    Of the last layer kept tokens need only keys and values. again: an earlier question selected the same ones, so they
    are not read again.
    """
    costs, before = Costs.of(config.text_config), len(config.prefix or [])
    bottom, above = config.lower_layers, costs.layers - 1 - config.lower_layers
    total = 0 if again else above * (kept * costs.layer + pairs(kept, before, causal) * costs.pair) + kept * costs.kv
    # Bottom layers that keep no keys see only the prefix.
    hidden = bottom - min(bottom, len(config.injection_map))
    total += run(costs, running, before + kept, causal) - hidden * running * kept * costs.pair + costs.head
    return total + decode(costs, running + before + kept, new_tokens) - hidden * new_tokens * kept * costs.pair
