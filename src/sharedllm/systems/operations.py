"""Operation counts by formula, the parts of every system's count: two per multiply-add of a matrix product; norms and
the like are not counted.

Attention counts in full, as the simplest kernel computes it, including what a mask hides. With `causal=True` only the
unmasked part counts; that is the necessary work, which rates are based on.

Notation: E hidden, I intermediate, Q = H · D and K = G · D the widths of queries and of keys.
"""

from dataclasses import dataclass

from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Operations:
    """Operations of reading the context, of the first token after it, and of the tokens decoded after that."""

    read: int
    first: int
    decode: int

    @property
    def total(self) -> int:
        return self.read + self.first + self.decode


@dataclass(frozen=True)
class Costs:
    """Costs of a decoder layer's parts, per token or per pair of query and key."""

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
        """All linear parts of a layer, per token."""
        return self.kv + self.rest


def pairs(new: int, past: int = 0, causal: bool = False) -> int:
    """Pairs of query and key if `new` tokens see `past` tokens and themselves."""
    return new * past + (new * (new + 1) // 2 if causal else new * new)


def run(costs: Costs, new: int, past: int = 0, causal: bool = False) -> int:
    """The whole decoder without its head: `new` tokens after `past` ones."""
    return costs.layers * (new * costs.layer + pairs(new, past, causal) * costs.pair)


def run_in_blocks(costs: Costs, new: int, past: int, block: int, causal: bool = False) -> int:
    """The same, with at most `block` tokens at once."""
    return sum(run(costs, min(block, new - start), past + start, causal) for start in range(0, new, block))


def decode(costs: Costs, running: int, new_tokens: int, far: int = 0) -> int:
    """Tokens one by one after `running` ones; `far`: additional pairs over all layers, per token."""
    steps = sum(run(costs, 1, running + step) for step in range(new_tokens))
    return steps + new_tokens * (far * costs.pair + costs.head)


def full_answer(
    config: PreTrainedConfig, past: int, running: int, block: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    """Also for the window alone, with nothing before it."""
    costs = Costs.of(config)
    first = run_in_blocks(costs, running, past, block, causal) + -(-running // block) * costs.head
    return first, decode(costs, running + past, new_tokens)
