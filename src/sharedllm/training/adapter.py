"""Adapters as deltas: a folder with what was trained, which names its base and is loaded onto it.

adapter.safetensors   the trained tensors: whole weights by their names, low-rank ones as NAME.lora_A and NAME.lora_B
adapter.json          the base and a hash of its weights, settings, recipe, versions, SHA-256 of the tensors
README.md             model card

Nothing here needs peft: W ← W + scaling · B A.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..causal_lm import SharedLLMForCausalLM
from ..model.config import SharedLLMConfig
from ..model.settings import Settings
from ..utils.checkpoints import load_config, load_model
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.model_names import checkpoint, is_gguf
from ..utils.scratch import whole_folder
from ..utils.version import __version__
from .parts import part_of
from .recipe import Recipe

VERSION = 1
TENSORS, ABOUT = "adapter.safetensors", "adapter.json"
# What must be in adapter.json.
FIELDS = ("version", "base", "shape", "weights", "extended", "settings", "scaling", "tensors", "recipe", "versions")
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


def is_delta(recipe: Recipe, trained: Iterable[str], config: PreTrainedConfig) -> bool:
    """Whether what a run trains is small beside its base: adapters and new modules, none of the base's own weights.

    Args:
        trained: names of the parameters that train.
    """
    small = {"lora", "gates", "cross_attention"} | (
        {"lower_model"} if getattr(config, "lower_weights", "") == "copy" else set()
    )
    extended = isinstance(config, SharedLLMConfig) and recipe.stage != "base"
    return extended and all(part_of(name, config) in small for name in trained)


def delta_names(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors by the names that they have in the model itself: without peft's and the trainer's additions."""
    names = {}
    for name, tensor in trained.items():
        name = re.sub(r"^(model\.)?(base_model\.model\.)?", "", name, count=1)
        name = re.sub(r"\.(lora_[AB])\.\w+\.weight$", r".\1", name).replace(".base_layer.", ".")
        names[name] = tensor
    return names


@torch.no_grad()
def add_delta(model: nn.Module, tensors: Mapping[str, Tensor], scaling: float) -> None:
    """Add trained tensors to a model's weights, in fp32, in place.

    Raises:
        UserError: the model has no such weight, or one of another shape.
    """
    weights = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name.endswith(".lora_B"):
            continue
        low_rank = name.endswith(".lora_A")
        target = f"{name.removesuffix('.lora_A')}.weight" if low_rank else name
        if low_rank:
            other = tensors.get(f"{name.removesuffix('_A')}_B")
            if other is None or other.shape[-1:] != tensor.shape[:1]:
                raise UserError(f"the adapter's {name} has no second half of its rank: it is damaged, copy it again.")
            shape = (other.shape[0], tensor.shape[1])
        else:
            other, shape = None, tuple(tensor.shape)
        weight = weights.get(target)
        if weight is None or tuple(weight.shape) != shape:
            there = "no such weight" if weight is None else f"{tuple(weight.shape)} there"
            raise UserError(
                f"the adapter is for another model: {target} has shape {shape} in it, and this model has {there}."
            )
        if other is None:
            weight.copy_(tensor)
        else:
            weight.copy_(weight.float() + scaling * (other.float() @ tensor.float()).to(weight.device))


def write_adapter(
    folder: Path, tensors: Mapping[str, Tensor], recipe: Recipe, config: SharedLLMConfig, card: str
) -> None:
    """Write a folder, whole or not at all.

    Args:
        tensors: as of `delta_names`. config: of the trained model. card: the text of the model card.

    Raises:
        UserError: the base can't be read again. OSError or SafetensorError: the folder can't be written.
    """
    name = recipe.base or ""
    base, named = load_model(name, dtype="auto"), Path(name).name if Path(name).exists() else name
    with whole_folder(folder) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
        lora = recipe.lora
        about = {
            "version": VERSION,
            "base": named,
            "shape": _shape(base.config),
            "weights": weights_hash(base),
            # A run may go on from a model that was extended before.
            "extended": isinstance(base, SharedLLMForCausalLM),
            "settings": settings_of(config),
            "scaling": lora.alpha / lora.rank if lora is not None else 1.0,
            "tensors": _sha256(temporary / TENSORS),
            # Folders of this machine mean nothing elsewhere.
            "recipe": recipe.as_dict() | {"base": named, "output": folder.parent.name, "data": recipe.domain_weights()},
            "versions": {
                "sharedllm": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }
        write_text(temporary / ABOUT, json.dumps(about, indent=1) + "\n")
        write_text(temporary / "README.md", card)


def settings_of(config: SharedLLMConfig) -> dict[str, Any]:
    """The settings of an extended model, without those of its base."""
    of_tokenizer = {"bos_token_id", "eos_token_id", "pad_token_id"}
    return {name: getattr(config, name) for name in Settings.__annotations__ if name not in of_tokenizer}


def load_adapter(name: str, folder: Path, device: torch.device | None = None) -> SharedLLMForCausalLM:
    """A base with an adapter added to its weights.

    Args:
        name: the base, a folder or a hub id. device: where the model goes; default: the CPU.

    Raises:
        UserError: the folder is no adapter, lacks a field or is damaged, the base can't be loaded, or it is another one.
    """
    about = read_about(folder)
    tensors = _tensors(folder, about)
    config = _config_of(name)
    if (shape := _shape(config)) != about["shape"]:
        other = next(key for key in SHAPE if shape.get(key) != about["shape"].get(key))
        raise UserError(
            f"{folder} is an adapter for {about['base']} with {other} {about['shape'].get(other)}; {name} has "
            f"{shape.get(other)}: name the base that it was trained on."
        )
    extended = isinstance(config, SharedLLMConfig)
    if extended:
        config = SharedLLMConfig(**config.to_dict() | about["settings"])
    base = load_model(name, device, dtype="auto", **({"config": config} if extended else {}))
    if about["extended"] != extended or weights_hash(base) != about["weights"]:
        raise UserError(
            f"{folder} is an adapter for {about['base']}, and {name} has other weights: name the base that it was trained on."
        )
    model = (
        base if isinstance(base, SharedLLMForCausalLM) else SharedLLMForCausalLM.from_base(base, **about["settings"])
    )
    add_delta(model, tensors, about["scaling"])
    return model


def _tensors(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / TENSORS
    try:
        if _sha256(path) == about["tensors"]:
            return load_file(path)
    except (OSError, SafetensorError):
        pass
    raise UserError(f"{path} is missing or damaged: copy the adapter again.")


def _config_of(name: str) -> PreTrainedConfig:
    found = checkpoint(name)
    # The configuration of a .gguf file is only known when it is loaded.
    if is_gguf(found):
        return load_model(name, dtype="auto").config
    return load_config(name, "base")


def read_about(folder: Path) -> dict[str, Any]:
    """What an adapter says about itself.

    Raises:
        UserError: there is no such file, it is damaged or lacks a field, or a later version wrote it.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{folder} is not an adapter: it has no {ABOUT}.") from None
    except ValueError:
        raise UserError(f"{path} is damaged: copy the adapter again.") from None
    if not isinstance(about, dict):
        raise UserError(f"{path} is damaged: copy the adapter again.")
    if missing := [field for field in FIELDS if field not in about]:
        raise UserError(f"{path} lacks {missing[0]!r}: it is damaged or incomplete; copy the adapter again.")
    if about["version"] != VERSION:
        raise UserError(f"{path} is of version {about['version']}, this program reads {VERSION}: update sharedllm.")
    kinds = {"shape": dict, "settings": dict, "scaling": int | float, "weights": str, "tensors": str, "extended": bool}
    if odd := [field for field, kind in kinds.items() if not isinstance(about[field], kind)]:
        raise UserError(f"{path}: {odd[0]}={about[odd[0]]!r} is of the wrong type; copy the adapter again.")
    return about


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 of a model's weights by name, shape and value, the same for every dtype and file that holds them."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()


def _shape(config: PreTrainedConfig) -> dict[str, Any]:
    text = config.get_text_config()
    return {name: getattr(text, name, None) for name in SHAPE}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
