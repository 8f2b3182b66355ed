"""BeaconConfig: the base's configuration, the window, and the condensing ratios."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ...model.base_config import keep_attention, take_over
from ...utils.errors import UserError


@strict
class BeaconConfig(PreTrainedConfig):
    """Configuration of an Activation Beacon model, whose settings have their paper's names: `stride` and `ratios`
    differ from SharedLLM's strides.

    Args:
        text_config: configuration of the base language model (an object or a dict with `model_type`).
        window: W, the most tokens that the base can attend to. Default: its `max_position_embeddings`.
        stride: w, number of raw tokens condensed at once; the memory has W − w tokens. Default: W / 2.
        ratios: α, raw tokens per beacon; one is drawn for each window in training. Default: 2, 4, 8, 16, 32.
        sinks: number of first tokens of a text that stay in the memory as raw tokens.
        initial_token: id of the token with whose embedding the beacons' begins. Default: the base's end of text, as in their
            paper; another one can be far better to begin with.
    """

    model_type = "sharedllm_beacon"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    text_config: PreTrainedConfig | dict[str, Any] | None = None
    window: int | None = None
    stride: int | None = None
    ratios: list[int] | tuple[int, ...] | None = None
    sinks: int = 1
    initial_token: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        attention = take_over(self, kwargs)
        self.stride = self.stride or self.window // 2
        if self.ratios is None:
            self.ratios = [r for r in (2, 4, 8, 16, 32) if r <= self.stride]
        self.ratios = sorted(self.ratios)
        super().__post_init__(**kwargs)
        keep_attention(self, attention)
        if not 1 <= self.stride < self.window - self.sinks:
            raise UserError(
                f"stride={self.stride} must leave room for a memory: at most window={self.window} − sinks={self.sinks} − 1."
            )
        if not self.ratios or self.ratios[0] < 1 or self.ratios[-1] > self.stride:
            raise UserError(f"ratios={self.ratios} must be between 1 and stride={self.stride} raw tokens per beacon.")
        ends, vocabulary = self.eos_token_id, self.text_config.vocab_size
        end = (ends[0] if isinstance(ends, list) else ends) or 0
        first = self.initial_token = end if self.initial_token is None else self.initial_token
        if not 0 <= first < vocabulary:
            raise UserError(f"initial_token={first} is no token of the base: give an id below {vocabulary}.")
        if getattr(self.text_config, "sliding_window", None):
            raise UserError("a base with a sliding_window can't attend to beacons before it: use another base.")

    @property
    def room(self) -> int:
        """Most tokens of the memory, sinks included."""
        return int(self.window or 0) - int(self.stride or 0)

    def ratio_for(self, total: int) -> int:
        """The smallest α whose reach, (W − w − sinks) · α + w, covers a text; beyond the trained ratios, powers of two
        up to w."""
        stride, (ratio, *more) = int(self.stride or 0), self.ratios or [1]
        larger = iter([*more, *(2**i for i in range(31) if max(ratio, *more, 1) < 2**i <= stride)])
        while (self.room - self.sinks) * ratio + stride < total:
            following = next(larger, None)
            if following is None:
                break
            ratio = following
        return ratio


AutoConfig.register("sharedllm_beacon", BeaconConfig, exist_ok=True)
