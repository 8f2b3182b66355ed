"""Checkpoints of a run: trainable weights, optimizer state and progress. Atomic, checksummed, without pickle.

checkpoints/step-00000100/   weights.safetensors   optimizer.safetensors   state.json (sha256 of both)
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..model.renamed import todays_name
from ..utils.errors import UserError
from ..utils.scratch import whole_folder
from .recipe import Recipe
from .recipe_file import saved_keys

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
FILES = ("weights.safetensors", "optimizer.safetensors")

# Recipe keys that may change when a run resumes: they don't affect the losses.
FREE = {"output", "checkpoint_every", "keep_checkpoints", "log_every", "tensorboard", "validation"}


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    keep: int,
    main: bool,
) -> None:
    """Write a checkpoint and remove all but the last `keep`. Called by all processes; `main` writes.

    Raises:
        UserError: it can't be written, for instance because the disk is full; earlier checkpoints stay.
    """
    weights = get_model_state_dict(model, options=FULL)
    moments = get_optimizer_state_dict(model, optimizers, options=FULL)
    if not main:
        return
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    final = folder / f"step-{state['step']:08d}"
    flat = {f"{name}|{key}": torch.as_tensor(v) for name, entry in moments["state"].items() for key, v in entry.items()}
    try:
        with whole_folder(final) as temporary:
            save_file(_owned({n: t for n, t in weights.items() if n in trained}), temporary / FILES[0])
            save_file(_owned(flat), temporary / FILES[1])
            sums = {name: _sha256(temporary / name) for name in FILES}
            (temporary / "state.json").write_text(json.dumps(state | {"sha256": sums}, indent=1), encoding="utf-8")
    except Exception as error:
        last = latest(folder)
        rest = f"the last whole one is {last}" if last else "there is none yet"
        raise UserError(f"the checkpoint {final} can't be written ({error}); {rest}.") from error
    for old in found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Put a checkpoint's weights and moments into model and optimizers; returns its state.

    Raises:
        UserError: it is missing, damaged or made for another model.
    """
    state = _read_state(folder)
    for name in FILES:
        if not (folder / name).is_file() or _sha256(folder / name) != state["sha256"][name]:
            raise _damaged(folder / name)
    weights = {todays_name(name): tensor for name, tensor in load_file(folder / FILES[0]).items()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if set(weights) != set(trained):
        odd = sorted(set(weights) ^ set(trained))[0]
        raise UserError(f"{folder} was made for a model that trains other parts: {odd} is in one of them only.")
    for name, tensor in weights.items():
        if tensor.shape != trained[name].shape:
            raise UserError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, the model {tuple(trained[name].shape)}."
            )
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, weights, options=options)
    moments: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / FILES[1]).items():
        name, _, entry = key.partition("|")
        moments.setdefault(todays_name(name), {})[entry] = tensor
    # Learning rates and the like come from the recipe; the groups only have to exist.
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        group | {"params": [names[parameter] for parameter in group["params"]]}
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]
    set_optimizer_state_dict(model, optimizers, {"state": moments, "param_groups": groups}, options=options)
    return state


def _read_state(folder: Path) -> dict[str, Any]:
    """The state stored in a checkpoint."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        _ = state["sha256"].keys(), state["step"] + 0
    except OSError:
        raise UserError(f"{folder} is not a checkpoint: it has no state.json.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder / "state.json") from None
    return state


def _damaged(file: Path) -> UserError:
    """What to say of a damaged file of a checkpoint: the one before goes on, or the run begins anew."""
    if earlier := [path for path in found(file.parent.parent) if path.name < file.parent.name]:
        return UserError(f"{file} is damaged: resume from an earlier checkpoint with resume_from={str(earlier[-1])!r}.")
    return UserError(f"{file} is damaged, and no earlier checkpoint is there: delete {file.parent} to begin anew.")


def found(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def latest(folder: Path) -> Path | None:
    return (found(folder) or [None])[-1]


def check_resume(start: Path, recipe: Recipe, data: dict[str, str]) -> None:
    """
    Args:
        data: the hash of each training text.

    Raises:
        UserError: the checkpoint is of a run with other text, or with a recipe that differs in more than the number of steps.
    """
    if _read_state(start).get("data") != data:
        raise UserError(f"{start} was made with other training text: choose another output folder.")
    check_recipe(recipe, longer=True)


def check_recipe(recipe: Recipe, free: set[str] = FREE, longer: bool = False) -> None:
    """
    Args:
        free: keys that may differ.
        longer: the recipe may have more steps than the run, which then goes on where it ended. Only with one phase: its
            samples come in the same order, however many there are; the rate follows the longer schedule from there.

    Raises:
        UserError: the output folder holds a run of a recipe with other losses; names the first key that differs.
    """
    saved = Path(recipe.output) / "recipe.json"
    if not saved.is_file():
        return
    before, now = saved_keys(json.loads(saved.read_text(encoding="utf-8"))), json.loads(json.dumps(recipe.as_dict()))
    if longer and before["steps"] < now["steps"] and len(now["schedule"]) == 1:
        free = free | {"steps"}
    changed = sorted(key for key in now.keys() & before.keys() - free if before[key] != now[key])
    if changed:
        key = changed[0]
        raise UserError(
            f"{recipe.output} holds a run with {key}={before[key]}, the recipe says {now[key]}: choose another output "
            "folder, or restore the value."
        )


def _owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, as a file needs them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
