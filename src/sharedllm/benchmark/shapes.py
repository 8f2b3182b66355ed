"""Model shapes by name. Weights are random, because cost does not depend on training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from ..systems.timed import Setting
from ..utils.errors import UserError


@dataclass(frozen=True)
class Shape:
    """A base of the Llama family, with SharedLLM's settings for it.

    window        W, most tokens of running text
    lower_layers  M
    chunk_size    C
    strides       of the tree's levels; the paper's keep every eighth token (β = 8)
    form          other settings of SharedLLM; none for the paper's form, cross-attention over a tree's nodes
    budget        tokens that a question selects, for SharedLLM with a budget
    batch_tokens  most tokens run at once: through a lower model, an encoder, or over a cache
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    window: int
    lower_layers: int
    chunk_size: int
    budget: int
    batch_tokens: int = 16_384
    tie_word_embeddings: bool = False
    rope_theta: float = 10_000.0
    strides: tuple[int, ...] = (16, 8, 4)
    form: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> LlamaConfig:
        """The base's configuration."""
        own = (
            "name",
            "window",
            "lower_layers",
            "chunk_size",
            "strides",
            "form",
            "budget",
            "batch_tokens",
            "rope_theta",
        )
        config = LlamaConfig(
            **{name: value for name, value in asdict(self).items() if name not in own},
            max_position_embeddings=self.window,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            bos_token_id=None,
            eos_token_id=None,
        )
        config._attn_implementation = "sdpa"
        return config

    def setting(self, new_tokens: int, batch_tokens: int, running: int | None = None) -> Setting:
        """The setting with which systems of this shape are timed."""
        reading = {"chunk_size": self.chunk_size, "strides": self.strides, "lower_layers": self.lower_layers}
        return Setting(self.window, self.budget, reading | dict(self.form), new_tokens, batch_tokens, running)

    def build(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> PreTrainedModel:
        """A base with random weights, initialised on the device."""
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(self.config(), dtype=dtype).eval()


SHAPES = {
    shape.name: shape
    for shape in (
        # The bundled model's shape and settings, as it is evaluated.
        Shape(
            name="tiny",
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=4096,
            window=512,
            lower_layers=4,
            chunk_size=128,
            budget=512,
            batch_tokens=4096,
            tie_word_embeddings=True,
            strides=(8, 4, 2),
            form={
                "injection": "joint",
                "encoding": "chunk",
                "overlap": 32,
                "injection_map": [[0, 0], [1, 1], [2, 2], [3, 3], [3, 4], [3, 5]],
            },
        ),
        # The shape of recipes/small-base.yaml.
        Shape(
            name="small",
            hidden_size=640,
            intermediate_size=1728,
            num_hidden_layers=16,
            num_attention_heads=10,
            num_key_value_heads=5,
            vocab_size=16_384,
            window=1024,
            lower_layers=4,
            chunk_size=256,
            budget=1024,
            tie_word_embeddings=True,
        ),
        # Qwen2.5-0.5B's shape (arXiv 2412.15115), without the biases of its projections; M as `extend` measures it.
        Shape(
            name="qwen2.5-0.5b",
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            vocab_size=151_936,
            window=32_768,
            lower_layers=3,
            chunk_size=512,
            budget=512,
            batch_tokens=32_768,
            tie_word_embeddings=True,
            rope_theta=1_000_000.0,
        ),
        # LLaMA-2's proportions, M/N = 1/8 as in the paper's 7B, for CPUs.
        Shape(
            name="cpu-16x1024",
            hidden_size=1024,
            intermediate_size=2752,
            num_hidden_layers=16,
            num_attention_heads=16,
            num_key_value_heads=16,
            vocab_size=32_000,
            window=4096,
            lower_layers=2,
            chunk_size=1024,
            budget=4096,
            batch_tokens=4096,
        ),
        Shape(
            name="llama-2-7b",
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            vocab_size=32_000,
            window=4096,
            lower_layers=4,
            chunk_size=1024,
            budget=4096,
            batch_tokens=8192,
        ),
        Shape(
            name="llama-3-8b",
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128_256,
            window=8192,
            lower_layers=4,
            chunk_size=1024,
            budget=8192,
            batch_tokens=8192,
            rope_theta=500_000.0,
        ),
    )
}


def get_shape(name: str) -> Shape:
    """A shape by its name.

    Raises:
        UserError: no shape of that name; lists the known ones.
    """
    if name not in SHAPES:
        raise UserError(f"shape={name!r} is not known: use one of {', '.join(SHAPES)}.")
    return SHAPES[name]
