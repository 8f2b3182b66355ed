"""The trainable parts by name: `train: {cross_attention: 1e-5, top_layers: 1e-5}` in a recipe. Everything else is frozen."""

import math
import re
import warnings

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..model.config import SharedLLMConfig
from ..systems.trained import parts_of_type
from ..utils.errors import UserError
from .muon import Muon
from .recipe import Lora


def part_of(name: str, config: PreTrainedConfig) -> str:
    """The most specific part of a parameter, by its name; `everything` for a parameter of a base."""
    if "lora_" in name:
        return "lora"
    for part in parts_of_type(getattr(config, "model_type", "")):
        if part.within and part.within in name:
            return part.name
    if not isinstance(config, SharedLLMConfig):
        return "everything"
    if ".lower_layers." in name:
        return "lower_model"
    layer = re.search(r"\.layers\.(\d+)\.", name)
    if layer is None:
        return "embeddings"
    if int(layer[1]) >= config.lower_layers:
        return "top_layers"
    return "lower_model" if config.lower_weights == "shared" else "bottom_layers"


def learning_rates(model: nn.Module, train: dict[str, float], config: PreTrainedConfig) -> dict[str, float]:
    """Learning rate of each trainable parameter; the others are frozen.

    Raises:
        UserError: a part that the model does not have.
    """
    rates = {}
    for name, parameter in model.named_parameters():
        part = part_of(name, config)
        if part == "lower_model" and part not in train and getattr(config, "lower_weights", "") == "shared":
            part = "bottom_layers"
        rate = train.get(part, train.get("everything"))
        parameter.requires_grad_(rate is not None)
        if rate is not None:
            rates[name] = rate
    found = {part_of(name, config) for name, _ in model.named_parameters()}
    if isinstance(config, SharedLLMConfig) and config.lower_weights == "shared":
        found.add("bottom_layers")
    for part in train:
        if part != "everything" and part not in found:
            raise UserError(f"train.{part}: this model has no {part}; it has {', '.join(sorted(found))}.")
    if not rates:
        raise UserError(f"train={train} leaves everything frozen: name a part that the model has.")
    return rates


def frozen_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Put what is frozen into a dtype, and what trains into fp32, whose updates are not lost."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let the backward pass compute activations again, in the layers that have any part in it."""
    model.activation_checkpointing_enable()
    # transformers makes the embeddings need gradients, which only reentrant checkpointing needs: all frozen layers would
    # keep their activations, and run backward.
    model.disable_input_require_grads()


def add_lora(model: PreTrainedModel, lora: Lora, train: dict[str, float]) -> nn.Module:
    """The model with low-rank adapters (peft).

    Args:
        train: the parts that train. Cross-attention that trains itself gets no adapters.

    Raises:
        UserError: peft is not installed, or a target or a layer is not in the model.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora needs peft: pip install 'sharedllm[train]'.") from None
    layers = model.config.get_text_config().num_hidden_layers
    if outside := [number for number in lora.layers or [] if not 0 <= number < layers]:
        raise UserError(f"lora.layers has {outside[0]}, but the base has layers 0 … {layers - 1}.")
    found = [name for name, _ in model.named_modules() if name.endswith(tuple(f".{t}" for t in lora.targets))]
    if not found:
        raise UserError(f"lora.targets={lora.targets} are no modules of this model: name some of its linear ones.")
    # What trains itself needs no adapters. peft warns of a pattern without an effect.
    itself = "cross_attention" in train and any(".injection." in name for name in found)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        exclude_modules=r".*\.injection\..*" if itself else None,
        layers_to_transform=lora.layers,
        layers_pattern=None if lora.layers is None else "layers",
    )
    with warnings.catch_warnings():
        # peft reads an attribute of transformers by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)


def make_optimizers(
    parameters: dict[str, nn.Parameter],
    rates: dict[str, float],
    kind: str,
    betas: list[float],
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the layers and AdamW for the rest.

    Each group stores its own learning rate as `base`; a schedule multiplies it.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, rate in rates.items():
        parameter = parameters[name]
        by_muon = kind == "muon" and parameter.ndim == 2 and not re.search("embed|lm_head|lora_", name)
        groups.setdefault((by_muon, rate), []).append(parameter)

    def chosen(by_muon: bool) -> list[dict]:
        return [{"params": p, "lr": r, "base": r} for (muon, r), p in groups.items() if muon == by_muon]

    optimizers: list[torch.optim.Optimizer] = []
    if chosen(True):
        optimizers.append(Muon(chosen(True), weight_decay))
    if chosen(False):
        decay = 0.0 if kind == "muon" else weight_decay
        optimizers.append(torch.optim.AdamW(chosen(False), betas=(betas[0], betas[1]), weight_decay=decay))
    return optimizers


def multiplier(kind: str, step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rates at a step: linear warm-up, then decay.

    `cosine` and `linear` fall to 0 at the end, `trapezoid` falls over the last 30 % of the steps, `constant` does not fall.
    """
    rise = min(1.0, (step + 1) / max(1, round(warmup * steps)))
    left = (steps - step) / steps
    fall = {
        "cosine": 0.5 - 0.5 * math.cos(math.pi * left),
        "linear": left,
        "trapezoid": min(1.0, left / 0.3),
        "constant": 1.0,
    }[kind]
    return min(rise, fall)
