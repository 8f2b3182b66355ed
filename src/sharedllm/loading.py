"""Loading a SharedLLM by its name: any other model is refused by its configuration, before its weights are loaded."""

from collections.abc import Callable
from typing import Any

from .causal_lm import SharedLLMForCausalLM
from .model.config import SharedLLMConfig
from .model.families import check_extendable
from .utils.checkpoints import load_config, load_model
from .utils.errors import UserError
from .utils.hardware import default_device, inference_dtype
from .utils.model_names import checkpoint, is_gguf


def load_shared_config(name: str) -> SharedLLMConfig:
    """The configuration of a SharedLLM: what is impossible with it can be refused before the weights are loaded.

    Raises:
        UserError: it can't be loaded, or is that of another model.
    """
    config = None if is_gguf(checkpoint(name)) else load_config(name)
    if not isinstance(config, SharedLLMConfig):
        kind = "base" if config is None else (config.architectures or [config.model_type])[0]
        try:
            if config is not None:
                check_extendable(config)
        except UserError as error:
            raise UserError(f"{name} is an ordinary {kind}, which can't be extended: {error}") from None
        raise UserError(f"{name} is an ordinary {kind}: make a SharedLLM from it with `sharedllm extend`.")
    return config


def load_shared(name: str, reads: str = "", say: Callable[[str], None] = lambda dtype: None) -> SharedLLMForCausalLM:
    """A SharedLLM on the default device and in its dtype, ready for use.

    Args:
        reads: fingerprint of a memory. If this model has it in another dtype, because another machine read the text, it is loaded in
            that one. say: called with the name of this dtype.

    Raises:
        UserError: as `load_shared_config`, or its weights can't be loaded.
    """
    load_shared_config(name)
    device = default_device()
    model: Any = load_model(name, device, dtype=inference_dtype(device))
    if reads and reads != model.fingerprint() and (dtype := model.model.dtype_of(reads)) is not None:
        say(str(dtype).removeprefix("torch."))
        model = load_model(name, device, dtype=dtype)
    return model.eval()
