"""Write the trained model as an ordinary transformers folder, whole or not at all."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.scratch import whole_folder
from .adapter import add_delta, delta_names, is_delta, write_adapter
from .card import adapter_card, model_card
from .losses import RowLosses
from .recipe import Recipe


def check_output(output: Path) -> None:
    """Refuse a folder with a model or checkpoints that were not written by training, because they would be replaced.

    Raises:
        UserError: the folder has them.
    """
    if (output / "recipe.json").is_file():
        return
    for name in ("model", "adapter", "checkpoints"):
        if (output / name).exists():
            raise UserError(
                f"output={output} has {name!r} in it, but no recipe.json of a training run: choose another folder."
            )


def write_model(
    accelerator: Accelerator, losses: RowLosses, tokenizer: PreTrainedTokenizerBase, output: Path, recipe: Recipe
) -> Path:
    """Write `output`/model: weights in `save_dtype` (gates stay fp32), configuration, tokenizer, card. Adapters are merged.

    Where little was trained, it is written to `output`/adapter too, from which `sharedllm extend` makes the same model.

    Raises:
        UserError: it can't be written; no partial folder is left.
    """
    folder, dtype = output / "model", getattr(torch, recipe.save_dtype)
    model = losses.model
    if recipe.lora is not None and accelerator.num_processes > 1:
        raise UserError("adapters are merged by one process: load the checkpoint with one and finish there.")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(losses, options=options)
    if not accelerator.is_main_process:  # it alone has the whole state
        accelerator.wait_for_everyone()
        return folder
    names = [name for name, parameter in losses.named_parameters() if parameter.requires_grad]
    trained = delta_names({n: state[n] if n.endswith(".gate") else state[n].to(dtype) for n in names})
    if recipe.lora is not None:
        model = model.unload()
        add_delta(model, trained, recipe.lora.alpha / recipe.lora.rank)
        state = model.state_dict()
    else:
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    # Tied weights are one tensor, but would be two after conversion.
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    state = {n: t if n.endswith(".gate") else t.to(dtype) for n, t in state.items() if n not in tied}
    try:
        with whole_folder(folder) as temporary:
            model.save_pretrained(temporary, state_dict=state)
            _say_dtype(temporary / "config.json", recipe.save_dtype)
            tokenizer.save_pretrained(temporary)
            parameters = sum(tensor.numel() for tensor in state.values())
            write_text(temporary / "README.md", model_card(recipe, model.config, parameters, output / "log.jsonl"))
        if is_delta(recipe, names, model.config):
            size = sum(tensor.numel() for tensor in trained.values())
            card = adapter_card(recipe, model.config, size, output / "log.jsonl")
            write_adapter(output / "adapter", trained, recipe, model.config, card)
    except Exception as error:  # from the file system or safetensors, for instance because the disk is full
        raise UserError(
            f"the model {folder} can't be written ({error}); the last checkpoint is whole: free space and run again."
        ) from error
    accelerator.wait_for_everyone()
    return folder


def _say_dtype(path: Path, dtype: str) -> None:
    """Write the dtype of the saved weights into a configuration; `save_pretrained` writes that of the weights in RAM."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if part is not None:
            part["dtype"] = dtype
            part.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
