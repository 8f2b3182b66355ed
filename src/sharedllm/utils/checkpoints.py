"""Loading any model or tokenizer by name; `model_names` resolves names."""

import re
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .errors import UserError, of_wrong_type, shown
from .gguf import load_gguf, load_gguf_tokenizer
from .model_names import checkpoint, is_gguf

# Longest wait for the hub.
SECONDS = 5.0


class NoModel(UserError):
    """There is no model of a name, neither here nor on the hub, or its file is damaged."""


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. options: as for `AutoTokenizer.from_pretrained`.

    Raises:
        UserError: it can't be loaded.
    """
    folder = _source(name)
    try:
        if is_gguf(folder):
            return load_gguf_tokenizer(Path(folder))
        return AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:
        raise _unreadable("tokenizer", name, error) from error


def load_model(
    name: str, device: torch.device | None = None, auto: Any = AutoModelForCausalLM, **options: Any
) -> PreTrainedModel:
    """Load any causal language model, or of another kind. Its weights must be safetensors or a .gguf file, which can't hold code.

    Args:
        device: where it goes once it is checked; default: where the options put it. auto: transformers' class of its kind.
        options: as for `AutoModelForCausalLM.from_pretrained`.

    Raises:
        UserError: it can't be loaded; the message says why. Or there is no such dtype.
    """
    check_dtype(options.get("dtype"))
    folder = _source(name)
    path = Path(folder)
    if path.is_dir() and not any(path.glob("*.safetensors")):
        others = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in path.glob(pattern))
        if others:
            raise UserError(
                f"{name} has its weights in {others[0]}, which may hold code: only safetensors are read. Convert it, "
                "for instance with save_pretrained of transformers."
            )
    try:
        if is_gguf(folder):
            model, found = load_gguf(path, **options), {"missing_keys": []}
        else:
            loaded: Any = auto.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
            model, found = loaded
    except UserError as error:
        raise UserError(f"can't load the model {name}: {error}") from None
    except Exception as error:
        # Damaged or foreign files raise all kinds of errors in the libraries. They are the user's files; --debug shows
        # the error.
        raise _unreadable("model", name, error) from error
    # No state depends on a pooler, which transformers adds to encoders.
    if lacking := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
        # transformers would initialise them at random.
        raise UserError(
            f"can't load the model {name}: {len(lacking)} of its weights are missing, such as {lacking[0]}; its files are "
            "damaged or belong to another model."
        )
    _check_finite(name, model)
    if device is not None:
        nn.Module.to(model, device)
    return model


def load_config(name: str, what: str = "model") -> PreTrainedConfig:
    """The configuration of any model but one in a .gguf file, without its weights.

    Args:
        what: what messages call it.

    Raises:
        UserError: it can't be loaded; the message says why.
    """
    folder = _source(name)
    try:
        return AutoConfig.from_pretrained(folder)
    except UserError as error:
        raise UserError(f"can't load the {what} {name}: {error}") from None
    except Exception as error:
        raise _unreadable(what, name, error) from error


def check_dtype(dtype: Any) -> None:
    """
    Args:
        dtype: what `from_pretrained` takes; one for each nested configuration is left to transformers.

    Raises:
        UserError: weights can't be loaded in it.
    """
    if isinstance(dtype, dict):
        return
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and not (isinstance(named, torch.dtype) and named.is_floating_point):
        raise UserError(
            f"dtype={shown(dtype)} is no dtype that weights can have: use 'float32', 'bfloat16' or 'float16', or 'auto' for "
            "the saved one."
        )


def _source(name: str | Path) -> str:
    """What a model is loaded from: as `checkpoint`, or where the hub can't be reached its copy here. The hub is asked once, for a
    few seconds: without a network its library would try each file again for half a minute, and the name may be mistyped.

    Raises:
        UserError: as `checkpoint`. NoModel: the hub can't be reached, and there is no copy here.
    """
    source = checkpoint(name)
    if Path(source).exists() or constants.HF_HUB_OFFLINE:
        return source
    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=SECONDS)
    except HfHubHTTPError:
        pass  # it answers; what is wrong is said when the model is fetched
    except Exception as error:  # of whatever library the hub's uses for connections
        copy = try_to_load_from_cache(source, "config.json")
        if isinstance(copy, str):
            return str(Path(copy).parent)
        raise NoModel(
            f"there is no folder {name}, no bundled model of that name (tiny, base), and the Hugging Face hub can't be reached "
            f"({error}): check the name, and the network."
        ) from None
    return source


def _check_finite(name: str, model: PreTrainedModel) -> None:
    """
    Raises:
        UserError: a weight is NaN or infinite, so all output would be meaningless.
    """
    for parameter, tensor in model.named_parameters():
        # A cheap test first: the sum is finite unless a number is not, or the sum overflows.
        if tensor.is_meta or not tensor.is_floating_point() or tensor.detach().sum(dtype=torch.float32).isfinite():
            continue
        odd = int((~tensor.detach().isfinite()).sum())
        if odd:
            raise UserError(
                f"can't load the model {name}: {odd:,} of the numbers in {parameter} are NaN or infinite; its files are damaged, "
                "or its training went wrong."
            )


def _unreadable(what: str, name: str, error: Exception) -> UserError:
    if unknown := re.search(r"model type `(.*)` but Transformers does not recognize", str(error)):
        return UserError(
            f"can't load the {what} {name}: transformers {transformers.__version__} does not know its model_type={unknown[1]!r}. Use a "
            "model of a supported family (docs/families.md), or update transformers if a later version knows it."
        )
    folder = Path(checkpoint(name))
    if not folder.exists():
        return NoModel(
            f"there is no folder {name}, no bundled model of that name (tiny, base), and none that could be fetched from "
            "the Hugging Face hub: check the name."
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        if files := sorted(file.name for file in folder.iterdir() if is_gguf(file.name)):
            return UserError(f"{name} has no config.json, but a .gguf file: name it, {Path(name) / files[0]}.")
        return UserError(f"{name} has no config.json: name the folder of a model.")
    if said := not_json(error):
        return UserError(f"can't load the {what} {name}: {said}")
    if isinstance(error, SafetensorError) or "deserializing header" in str(error):
        return UserError(
            f"can't load the {what} {name}: its .safetensors files are damaged or were cut short; copy or fetch them again."
        )
    if is_gguf(name) and (isinstance(error, struct.error) or "reshape array" in str(error)):
        return NoModel(f"can't load the {what} {name}: it is damaged or was cut short; get it again.")
    told = of_wrong_type(error) if isinstance(error, StrictDataclassError) else error
    lines = [" ".join(line.split()) for line in str(told).splitlines() if line.strip()] or [type(error).__name__]
    return UserError(f"can't load the {what} {name}: {lines[0][:300]}")


def not_json(error: Exception) -> str | None:
    """What to say of a configuration's file that transformers refused because it is not JSON; None for another error."""
    found = re.search("the config file at '(.*)' is not a valid JSON file", str(error))
    return None if found is None else f"{found[1]} is damaged, it is not JSON: get the file again."


def check_dense(model: PreTrainedModel) -> None:
    """Refuse weights that are not plain numbers on a device: a memory is identified by them, and made with them.

    Raises:
        UserError: they are quantised, or offloaded to the CPU or the disk.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise UserError(
                f"{name} is offloaded, or was never loaded (it is on the meta device): load the whole model on one device, without "
                "an offloading device_map."
            )
        if type(tensor.data) is not torch.Tensor or (not tensor.is_floating_point()):
            raise UserError(
                f"{name} is quantised ({type(tensor.data).__name__}, {tensor.dtype}): load the base without quantisation, in float16 "
                "or bfloat16."
            )
