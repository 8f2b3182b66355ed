"""CepeConfig: the configurations of base and encoder, and how the context is cut."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, ModernBertConfig, PreTrainedConfig

from ...model.base_config import keep_attention, take_over
from ...utils.errors import UserError

# Size of the encoder as a share of the decoder's parameters, as in the paper: 435M for 6.7B.
ENCODER_SHARE = 0.065


@strict
class CepeConfig(PreTrainedConfig):
    """Configuration of a CEPE model.

    Args:
        text_config: configuration of the base language model (an object or a dict with `model_type`).
        encoder_config: configuration of the encoder, a `ModernBertConfig` (an object or a dict).
        window: most tokens of running text. Default: the base's `max_position_embeddings`.
        chunk_size: number of context tokens that are encoded together.
    """

    model_type = "sharedllm_cepe"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "encoder_config": ModernBertConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    text_config: PreTrainedConfig | dict[str, Any] | None = None
    encoder_config: PreTrainedConfig | dict[str, Any] | None = None
    window: int | None = None
    chunk_size: int = 256
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        attention = take_over(self, kwargs)
        if self.encoder_config is None:
            raise UserError("encoder_config is missing: pass the encoder's configuration, or use from_base().")
        if isinstance(self.encoder_config, dict):
            self.encoder_config = ModernBertConfig(**self.encoder_config)
        super().__post_init__(**kwargs)
        keep_attention(self, attention)
        if not 1 <= self.chunk_size <= self.encoder_config.max_position_embeddings:
            longest = self.encoder_config.max_position_embeddings
            raise UserError(f"chunk_size={self.chunk_size} must be 1 … {longest}, the encoder's positions.")


def encoder_config(text_config: PreTrainedConfig, parameters: int, **changes) -> ModernBertConfig:
    """An encoder for a decoder: a quarter as wide, with the number of layers that brings it nearest to `ENCODER_SHARE`
    of its size.

    Its vocabulary is the decoder's plus two tokens: mask and padding.

    Args:
        text_config: of the decoder. parameters: how many the decoder has. changes: fields of `ModernBertConfig`.
    """
    hidden = changes.get("hidden_size", max(text_config.hidden_size // 4, 16))
    inner = changes.get("intermediate_size", 2 * hidden)
    vocabulary = text_config.vocab_size
    a_layer = 4 * hidden**2 + 3 * hidden * inner
    layers = max(2, round((ENCODER_SHARE * parameters - vocabulary * hidden) / a_layer))
    # Heads of about 64, of an even size.
    most = max(1, hidden // 64) if hidden >= 128 else 2
    heads = next((count for count in range(most, 0, -1) if hidden % (2 * count) == 0), 1)
    settings = {
        "vocab_size": vocabulary + 2,
        "pad_token_id": vocabulary + 1,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 512,
        # Every layer sees the whole chunk.
        "global_attn_every_n_layers": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "cls_token_id": None,
        "sep_token_id": None,
    }
    unknown = sorted(set(changes) - set(ModernBertConfig().to_dict()))
    if unknown:
        raise UserError(f"encoder.{unknown[0]} is not a field of ModernBertConfig.")
    return ModernBertConfig(**settings | changes)


AutoConfig.register("sharedllm_cepe", CepeConfig, exist_ok=True)
