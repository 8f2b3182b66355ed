"""The base class of both models: what transformers needs to know about them."""

from typing import Any, ClassVar

from torch import nn

from .config import SharedLLMConfig
from .renamed import LoadsRenamed
from .settings import check_known


class SharedLLMPreTrainedModel(LoadsRenamed):
    """What transformers needs to know about both models."""

    config: SharedLLMConfig
    config_class = SharedLLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "memory"]
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["injection.gate"]
    _supports_sdpa = True
    _supports_attention_backend = False
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: SharedLLMConfig, **unknown: Any):
        """
        Args:
            unknown: what neither transformers nor the configuration knows of the arguments of `from_pretrained`.

        Raises:
            UserError: there is anything.
        """
        check_known(unknown)
        super().__init__(config)

    def _init_weights(self, module: nn.Module) -> None:
        """New modules start as copies of the base's; only a model made from a bare configuration is initialised at random."""
        std = self.config.text_config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
