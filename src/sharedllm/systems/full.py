"""Full attention over everything, with or without scaled rotary positions: the upper bound where it fits.

Scaling: `linear` (position interpolation, arXiv 2306.15595), `dynamic` (NTK-aware), `yarn` (arXiv 2309.00071), through
transformers' `rope_parameters`. The factor is the smallest power of two for which the text fits.
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from .evaluated import Scores, SystemSpec, scores_of
from .operations import Costs, Operations, full_answer, run_in_blocks
from .timed import State
from .window import TimedWindow

# Registry name → rope type.
SCALINGS = {"full": None, "pi": "linear", "ntk": "dynamic", "yarn": "yarn"}


@dataclass(frozen=True)
class Full:
    """window: of the base, in tokens. scaling: None or a `rope_type`. block: most tokens of the context read at once."""

    model: PreTrainedModel
    window: int
    name: str = "full"
    scaling: str | None = None
    block: int = 4096

    @property
    def running(self) -> int:
        return self.window

    def prepare(self, far: Tensor, query: Tensor) -> tuple[DynamicCache, int]:
        """Keys and values of the far context, at positions scaled for its length plus one window."""
        factor = 1
        while factor * self.window < far.shape[1] + self.window:
            factor *= 2
        cache, restore = DynamicCache(config=self.model.config), self._scale(factor)
        try:
            for piece in far.split(self.block, 1) if far.shape[1] else ():
                self.model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        finally:
            restore()
        # Layers with a sliding window would otherwise forget what they need again after the targets.
        cache.activate_past_recording()
        return cache, factor

    def score(self, state: tuple[DynamicCache, int], running: Tensor, targets: int) -> Scores:
        cache, factor = state
        restore = self._scale(factor)
        try:
            logits = self.model(running, past_key_values=cache, use_cache=True, logits_to_keep=targets + 1).logits
        finally:
            restore()
            # A negative number removes that many tokens.
            cache.crop(-running.shape[1])
        return scores_of(logits, running, targets)

    def _scale(self, factor: int) -> Any:
        """Put scaled positions into the model; returns a function that restores the old ones."""
        decoder = self.model.get_decoder()
        plain: Any = decoder.rotary_emb
        if self.scaling is not None and factor > 1:
            config = copy.deepcopy(self.model.config)
            config.rope_parameters = dict(config.rope_parameters) | {
                "rope_type": self.scaling,
                "factor": float(factor),
                "original_max_position_embeddings": self.window,
            }
            scaled = type(plain)(config=config).to(self.model.device)
            if self.scaling == "dynamic":
                scaled = _FixedNtk(plain, factor)
            decoder.rotary_emb = scaled

        def restore() -> None:
            decoder.rotary_emb = plain

        return restore


class _FixedNtk(nn.Module):
    """NTK-aware scaling by one factor for the whole text: with a cache the rotary base must not change midway."""

    def __init__(self, plain: nn.Module, factor: int):
        super().__init__()
        self.plain = copy.deepcopy(plain)
        dim = 2 * len(plain.inv_freq)
        base = plain.config.rope_parameters["rope_theta"] * factor ** (dim / (dim - 2))
        exponents = 2 * plain.inv_freq.new_tensor(range(dim // 2)) / dim
        self.plain.inv_freq = 1.0 / base**exponents

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain(hidden, position_ids)


def full(spec: SystemSpec) -> Full:
    return Full(spec.model, spec.window, spec.name, SCALINGS.get(spec.kind))


def full_read(config: PreTrainedConfig, length: int, block: int, causal: bool = False) -> int:
    return run_in_blocks(Costs.of(config), length, 0, block, causal)


class TimedFull(TimedWindow):
    """Prefilled in blocks, so that only keys and values grow with length."""

    @property
    def block(self) -> int:
        # The GPU kernel handles causal attention over a cache; the CPU's needs a mask of block × everything read so far.
        return 16_384 if self.model.device.type == "cuda" else 1024

    def read(self, ids: Tensor) -> State:
        cache, decoder = self._cache(ids.shape[1] + self.running), self.model.get_decoder()
        for piece in ids.split(self.block, 1):
            decoder(piece, past_key_values=cache, use_cache=True)
        return State(cache=cache)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config = self.model.config
        answer = full_answer(config, length, self.running, self.block, self.setting.new_tokens, causal)
        return Operations(full_read(config, length, self.block, causal), *answer)
