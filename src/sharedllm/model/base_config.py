"""Settings that a model takes over from its base's configuration, which is nested in its own."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..utils.checkpoints import NoModel, load_config
from ..utils.errors import UserError, shown
from ..utils.model_names import checkpoint, is_gguf
from .families import check_extendable, check_family, family_of


def check_base(name: str) -> PreTrainedConfig | None:
    """Refuse a base checkpoint by its configuration, before its tokenizer and its weights are loaded.

    Returns:
        As `check_extendable`; None where it is only known with the weights.

    Raises:
        UserError: the configuration is missing or damaged, its family is not supported, or it is that of a SharedLLM.
    """
    # A .gguf file's is only known with its weights. An adapter has none of its own; transformers finds its base.
    if is_gguf(name) or (Path(checkpoint(name)) / "adapter_config.json").is_file():
        return None
    # If nothing is found, it may be an adapter on the hub; loading the weights says it.
    with suppress(NoModel):
        return check_extendable(load_config(name))
    return None


def check_own(saved: Any, own: str) -> None:
    """Refuse a config.json of another model than a SharedLLM.

    Args:
        saved: what the file has. own: the model_type of a SharedLLM.

    Raises:
        UserError: it is a base's, or no settings; or as `check_family`.
    """
    if not isinstance(saved, dict):
        raise UserError(f"config.json has {shown(saved)}, where a model's settings are meant: get the file again.")
    if (kind := saved.get("model_type", own)) != own:
        check_family(kind)
        raise UserError(
            f"this is an ordinary model, of model_type={kind!r}: make a SharedLLM from it with "
            "SharedLLMForCausalLM.from_base, or with `sharedllm extend`."
        )


def take_over(config: Any, given: dict[str, Any]) -> str | None:
    """Make `config.text_config` an object, and take token ids, weight tying and, if none is given, the window from it.

    Args:
        given: keyword arguments of the configuration; token ids are removed from it.

    Returns:
        The base's attention implementation, for `keep_attention` after the configuration's own set-up.

    Raises:
        UserError: there is no base configuration, or its family is not supported.
    """
    if config.text_config is None:
        config.text_config = AutoConfig.for_model("llama")
    if isinstance(config.text_config, dict):
        text = dict(config.text_config)
        if "model_type" not in text:
            raise UserError("text_config has no model_type: pass the base model's whole configuration.")
        check_family(text["model_type"])  # transformers would answer an unknown one with a list of hundreds
        config.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
    base: PreTrainedConfig = config.text_config
    family_of(base)
    config.tie_word_embeddings = bool(base.tie_word_embeddings)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_id = given.pop(name, None)
        setattr(config, name, getattr(base, name, None) if token_id is None else token_id)
    if config.window is None:
        config.window = base.max_position_embeddings
        border = family_of(base).border(base)
        if border is not None and getattr(config, "injection", "cross") == "joint":
            config.window = min(config.window, border)
    return base._attn_implementation


def positions_of(base: PreTrainedConfig) -> int | None:
    """How many positions a base is configured for, or is scaled to; None if it has no limit."""
    most = getattr(base, "max_position_embeddings", None)
    if most is None:
        return None
    rope = getattr(base, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # some bases have one per kind of layer
    scaled = (
        (kind.get("original_max_position_embeddings") or most) * kind["factor"] for kind in kinds if kind.get("factor")
    )
    return int(max([most, *scaled]))


def keep_attention(config: PreTrainedConfig, implementation: str | None) -> None:
    """Give a configuration its base's attention implementation, unless it has its own.

    Setting it also sets the nested configuration's, and None there would mean attention without any mask.
    """
    if config._attn_implementation is None and implementation is not None:
        config._attn_implementation = implementation


def of_base(name: str) -> Any:
    """A field of the base's configuration, as a field of the configuration that it is nested in: read and set there."""

    def put(config: Any, value: Any) -> None:
        setattr(config.text_config, name, value)

    return property(lambda config: getattr(config.text_config, name), put)
