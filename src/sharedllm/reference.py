"""The method as slow loops over one text: the reference for tests of the fast path, and the shortest version to read.

Follows the paper (arXiv 2603.04759): context tree, lower model, position-aware cross-attention (eq. 2), upper model.
Nothing is batched, masked, cached or skipped; it shares only the weights with the fast path, so that a mistake there is
not repeated here. Every operation is differentiable, so gradients can be compared as well as values.

Letters: L tokens of a span, S kept tokens of the context, M lower layers, H query heads, G key-value heads, D head
dimension, E hidden size, V vocabulary, C tokens per chunk, n chunks of the context.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .causal_lm import SharedLLMForCausalLM


class Node(NamedTuple):
    """Tokens start … end − 1 of the context, `level` steps below their chunk."""

    start: int
    end: int
    level: int


class ReferenceMemory(NamedTuple):
    """The kept tokens of a text.

    pairs     for each injection pair its keys (S, G, D), before RoPE, and values (S, G, D); none without a context
    chunk     S indices, the chunk of each kept token, 0 for the oldest
    position  S ascending positions of the kept tokens in the context
    """

    pairs: list[tuple[Float[Tensor, "S G D"], Float[Tensor, "S G D"]]]
    chunk: list[int]
    position: list[int]


def reference_logits(
    model: SharedLLMForCausalLM,
    input_ids: list[int],
    context_ids: list[int],
    query_ids: list[int] | None = None,
    epsilons: list[float] | None = None,
) -> Float[Tensor, "L V"]:
    """The upper model over running text, with a context to read (paper, eq. 2 and the overview of the model).

    Args:
        input_ids: L tokens of running text, at most the window.
        context_ids: T tokens before it, any number, 0 included.
        query_ids, epsilons: see `reference_memory`; a policy that needs a query and gets none uses the running text.

    Returns:
        (L, V) logits.
    """
    config, upper = model.config, model.model.upper
    memory = reference_memory(model, context_ids, query_ids or input_ids, epsilons)
    pair_of_layer = {upper_index: pair for pair, (_, upper_index) in enumerate(config.injection_map)}
    hidden = upper.embed_tokens(_ids(model, input_ids))
    layer: Any
    for index, layer in enumerate(upper.layers):
        reads = index in pair_of_layer and bool(memory.position)
        far = None
        if reads and config.injection == "joint":
            bias = -math.log(max(1.0, len(memory.position) / config.window))
            far = (*_joint_keys_values(model, memory, pair_of_layer[index], len(context_ids)), bias)
        hidden = hidden + _self_attention(model, layer, index, hidden, far)
        if reads and config.injection == "cross":
            hidden = hidden + _cross_attention(model, layer, hidden, memory, pair_of_layer[index])
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(upper.norm(hidden))


def _cross_attention(
    model: SharedLLMForCausalLM, layer: Any, hidden: Float[Tensor, "L E"], memory: ReferenceMemory, pair: int
) -> Float[Tensor, "L E"]:
    """tanh(g) · W_o softmax(q kᵀ / √D) v (paper, eq. 2; the gate g, in float32, is ours and 0 before training).

    Keys of all chunks are concatenated; those of chunk i are rotated to position i, every query to position n.

    Args:
        hidden: (L, E) residual stream after self-attention.

    Returns:
        (L, E) to add to it.
    """
    cross, head_dim = layer.injection, layer.self_attn.head_dim
    n = memory.chunk[-1] + 1
    queries = _heads(cross.q_proj(cross.norm(hidden)), head_dim, getattr(cross, "q_norm", None))
    keys, values = memory.pairs[pair]
    queries = _rotate(model, queries, [n] * len(queries))
    if model.config.score_scaling == "log":
        queries = queries * max(1.0, math.log(len(keys)) / math.log(model.config.window))
    places = [0] * len(keys)
    if model.config.key_position == "offset":
        places = [p - c * model.config.chunk_size for p, c in zip(memory.position, memory.chunk, strict=True)]
    keys = _rotate(model, keys, [c + place for c, place in zip(memory.chunk, places, strict=True)])
    everything = [range(len(keys))] * len(queries)
    gate = 1.0 if cross.gate is None else torch.tanh(cross.gate.float()).to(hidden.dtype)
    return gate * cross.o_proj(_attention(queries, keys, values, everything))


def _joint_keys_values(
    model: SharedLLMForCausalLM, memory: ReferenceMemory, pair: int, context_length: int
) -> tuple[Tensor, Tensor]:
    """Rotated keys and values (S, G, D) that self-attention sees besides its own: chunk i of n is at i − n, or with
    key_position "offset" each token at its distance before the running text, but no farther than the reach, or the
    window."""
    keys, values = memory.pairs[pair]
    n, config = memory.chunk[-1] + 1, model.config
    if config.key_position == "offset":
        places = [max(p - context_length, -config.window) for p in memory.position]
    else:
        places = [max(c - n, -config.reach) for c in memory.chunk]
    if config.score_scaling == "log":
        keys = keys * max(1.0, math.log(len(keys)) / math.log(config.window))
    return _rotate(model, keys, places), values


def reference_memory(
    model: SharedLLMForCausalLM,
    context_ids: list[int],
    query_ids: list[int] | None = None,
    epsilons: list[float] | None = None,
) -> ReferenceMemory:
    """Read a context with the lower model and keep the sampled positions of its trees (paper, context tree).

    Args:
        context_ids: T tokens, cut from the start into chunks of C; the last may be shorter.
        query_ids: the question, for the policy "cosine".
        epsilons: for each tree level the split noise as a share of the node's length, ε / l; None is inference, ε = 0.
    """
    config = model.config
    query = None
    if config.selection == "cosine" and context_ids and query_ids is not None:
        with torch.no_grad():
            query = _run(model, model.model.upper.layers, query_ids, depth=1)[1][-1]
    chunk_of, positions = [], []
    keys_values: list[list[tuple[Tensor, Tensor]]] = [[] for _ in config.injection_map]
    for chunk, start in enumerate(range(0, len(context_ids), config.chunk_size)):
        root = Node(start, min(start + config.chunk_size, len(context_ids)), 0)
        # The scores only choose between spans, which has no gradient.
        with torch.no_grad():
            nodes = context_tree(root, config.height, _policy(model, context_ids, root, query), epsilons)
        for node in nodes:
            read = node if config.encoding == "node" else root._replace(start=max(0, root.start - config.overlap))
            states = _run(model, _lower_layers(model), context_ids[read.start : read.end], config.lower_layers - 1)
            for position in sampled_positions(node, config.strides, config.keep):
                chunk_of.append(chunk)
                positions.append(position)
                for pair, (lower_index, upper_index) in enumerate(config.injection_map):
                    state = states[lower_index][position - read.start]
                    keys_values[pair].append(_key_value(model, state, lower_index, upper_index))
    pairs = []
    for kept in keys_values if positions else []:
        keys, values = zip(*kept, strict=True)
        pairs.append((torch.stack(keys), torch.stack(values)))
    return ReferenceMemory(pairs, chunk_of, positions)


def context_tree(
    root: Node, height: int, select_right: Callable[[Node, Node], bool], epsilons: list[float] | None = None
) -> list[Node]:
    """The preserved nodes of one chunk from left to right (paper, context tree); they partition it.

    A node of l tokens is split at b = floor(l/2 − ε), both parts non-empty. One child is selected and split again, its
    sibling is preserved; at the last level both are. A node of one token can't be split and is preserved as it is.
    """
    preserved, selected = [], root
    for level in range(1, height + 1):
        length = selected.end - selected.start
        if length < 2:
            break
        epsilon = epsilons[level - 1] * length if epsilons else 0.0
        b = min(max(math.floor(length / 2 - epsilon), 1), length - 1)
        left = Node(selected.start, selected.start + b, level)
        right = Node(selected.start + b, selected.end, level)
        if select_right(left, right):
            preserved.append(left)
            selected = right
        else:
            preserved.append(right)
            selected = left
    preserved.append(selected)
    return sorted(preserved)


def sampled_positions(node: Node, strides: Sequence[int], keep: str = "last") -> list[int]:
    """The kept positions of a preserved node, ascending: the last (or first) of each stride of α_w tokens (paper,
    downsampling).

    Under causal attention only the last token of a stride has seen all of it. A chunk that was never split counts as level 1.
    """
    if keep == "first":
        return list(range(node.start, node.end, strides[max(node.level, 1) - 1]))
    kept, position = [], node.end - 1
    while position >= node.start:
        kept.append(position)
        position -= strides[max(node.level, 1) - 1]
    return kept[::-1]


def _policy(
    model: SharedLLMForCausalLM, context_ids: list[int], root: Node, query: Float[Tensor, " E"] | None
) -> Callable[[Node, Node], bool]:
    """Whether the right one of two siblings is selected: always without a query, else if it is more similar to the query.

    Similarity is the cosine between the states at the last tokens of node and query, each after the first layer of its
    model (paper, selection).

    Args:
        query: (E,) the query's state; None for the policy "right".
    """
    if query is None:
        return lambda left, right: True

    def cosine(node: Node) -> float:
        read = node if model.config.encoding == "node" else root
        states = _run(model, _lower_layers(model), context_ids[read.start : read.end], depth=1)[1]
        a, b = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (states[node.end - 1 - read.start], query))
        return float(a @ b / (a.norm() * b.norm()))

    return lambda left, right: cosine(right) >= cosine(left)


def _key_value(
    model: SharedLLMForCausalLM, state: Float[Tensor, " E"], lower_index: int, upper_index: int
) -> tuple[Float[Tensor, "G D"], Float[Tensor, "G D"]]:
    """The key, before RoPE, and the value (G, D) of one kept token from the state (E,) entering a lower layer.

    Self-injection: layer i of the upper model reads the keys and values of layer i of the lower. Only a pair of
    different layers has its own projections.
    """
    layer: Any
    projections: Any
    if lower_index == upper_index:
        layer = _lower_layers(model)[lower_index]
        normed, projections = layer.input_layernorm(state), layer.self_attn
    else:
        layer = model.model.upper.layers[upper_index]
        projections = layer.injection.projection
        normed = projections.norm(state)
    head_dim = layer.self_attn.head_dim
    key = _heads(projections.k_proj(normed), head_dim, getattr(projections, "k_norm", None))
    return key, _heads(projections.v_proj(normed), head_dim)


def _run(model: SharedLLMForCausalLM, layers: nn.ModuleList, ids: list[int], depth: int) -> list[Float[Tensor, "L E"]]:
    """Run the bottom `depth` layers over a span alone, from position 0 and without any memory.

    Returns:
        The depth + 1 states (L, E) entering layers 0 … depth.
    """
    states = [model.model.upper.embed_tokens(_ids(model, ids))]
    layer: Any
    for index in range(depth):
        layer, hidden = layers[index], states[-1]
        hidden = hidden + _self_attention(model, layer, index, hidden)
        states.append(hidden + layer.mlp(layer.post_attention_layernorm(hidden)))
    return states


def _self_attention(
    model: SharedLLMForCausalLM,
    layer: Any,
    index: int,
    hidden: Float[Tensor, "L E"],
    far: tuple[Float[Tensor, "S G D"], Float[Tensor, "S G D"], float] | None = None,
    start: int = 0,
) -> Float[Tensor, "L E"]:
    """Causal self-attention of a decoder layer at positions start … start + L − 1: (L, E) → (L, E), to be added to the input.

    Args:
        far: rotated keys and values (S, G, D) of a memory, which every token sees too, and a bias for their scores. With
            `anchor` not the first token: a base knows it by its seeing nothing else, and rests attention on it.
    """
    attention, positions = layer.self_attn, list(range(len(hidden)))
    places = [start + position for position in positions]
    normed = layer.input_layernorm(hidden)
    queries = _heads(attention.q_proj(normed), attention.head_dim, getattr(attention, "q_norm", None))
    keys = _heads(attention.k_proj(normed), attention.head_dim, getattr(attention, "k_norm", None))
    values = _heads(attention.v_proj(normed), attention.head_dim)
    queries, keys = _rotate(model, queries, places), _rotate(model, keys, places)
    reach = _sliding_window(model, index) or len(hidden)
    visible = [range(max(0, position + 1 - reach), position + 1) for position in positions]
    attended = _attention(queries, keys, values, visible, far)
    if model.config.anchor and start == 0:
        attended = torch.cat([_attention(queries[:1], keys, values, visible[:1]), attended[1:]])
    return attention.o_proj(attended)


def _attention(
    queries: Float[Tensor, "L H D"],
    keys: Float[Tensor, "S G D"],
    values: Float[Tensor, "S G D"],
    visible: Iterable[range],
    far: tuple[Float[Tensor, "s G D"], Float[Tensor, "s G D"], float] | None = None,
) -> Float[Tensor, "L H*D"]:
    """softmax(q kᵀ / √D) v, one query at a time; H / G query heads share a key-value head.

    Args:
        queries: (L, H, D). keys, values: (S, G, D).
        visible: for each query the keys that it sees. far: keys and values that all queries see too, and a bias.

    Returns:
        (L, H · D).
    """
    shared, head_dim = queries.shape[1] // keys.shape[1], queries.shape[2]
    keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
    rows = []
    for query, seen in zip(queries, visible, strict=True):
        v = values[seen.start : seen.stop]
        scores = torch.einsum("shd,hd->sh", keys[seen.start : seen.stop], query) / math.sqrt(head_dim)
        if far is not None:
            far_keys, far_values, bias = far
            far_scores = torch.einsum("shd,hd->sh", far_keys.repeat_interleave(shared, 1), query) / math.sqrt(head_dim)
            scores = torch.cat([far_scores + bias, scores])
            v = torch.cat([far_values.repeat_interleave(shared, 1), v])
        weights = torch.softmax(scores, 0, dtype=torch.promote_types(scores.dtype, torch.float32))
        rows.append(torch.einsum("sh,shd->hd", weights.to(v.dtype), v).flatten())
    return torch.stack(rows)


def _rotate(
    model: SharedLLMForCausalLM, vectors: Float[Tensor, "L H D"], positions: list[int]
) -> Float[Tensor, "L H D"]:
    """RoPE: rotate pairs (d, d + D/2) of the vectors (L, H, D) by the angles of their positions."""
    cos, sin = model.model.upper.rotary_emb(vectors, torch.tensor([positions], device=vectors.device))
    half = vectors.shape[-1] // 2
    cos, sin = cos[0, :, None, :half], sin[0, :, None, :half]
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _heads(projected: Float[Tensor, "*L HD"], head_dim: int, norm: nn.Module | None = None) -> Float[Tensor, "*L H D"]:
    """(…, H · D) → (…, H, D), each head normalised if the family does so."""
    heads = projected.unflatten(-1, (-1, head_dim))
    return heads if norm is None else norm(heads)


def _lower_layers(model: SharedLLMForCausalLM) -> nn.ModuleList:
    """The lower model's decoder layers: its own copy, or the upper model's."""
    own = model.model.lower_layers
    return model.model.upper.layers if own is None else own


def _sliding_window(model: SharedLLMForCausalLM, index: int) -> int | None:
    """How many tokens layer `index` of the base sees, the token itself included; None for all."""
    config = model.config.text_config
    types = getattr(config, "layer_types", None)
    if types is not None and types[index] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def _ids(model: SharedLLMForCausalLM, ids: list[int]) -> Int[Tensor, " L"]:
    return torch.tensor(ids, dtype=torch.long, device=model.lm_head.weight.device)
