"""The systems to time, over one base with random weights that all of them share."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from ..systems import SYSTEMS
from ..systems.timed import Setting, TimedSystem, timed_names
from ..utils.errors import UserError
from ..utils.registry import load
from .shapes import Shape


def check_names(names: Sequence[str]) -> None:
    """
    Raises:
        UserError: no such system; lists the known ones.
    """
    unknown = [name for name in names if name not in timed_names()]
    if unknown:
        raise UserError(f"systems={unknown[0]!r} is not known: use some of {', '.join(timed_names())}.")


def make_timed(
    names: Sequence[str], shape: Shape, setting: Setting, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> dict[str, TimedSystem]:
    """Systems by name.

    Raises:
        UserError: no such system; lists the known ones.
    """
    check_names(names)
    base = shape.build(dtype, device, seed)
    models: dict[Callable, PreTrainedModel] = {}
    made = {}
    for name in names:
        kind: type[TimedSystem] = load(SYSTEMS[name].timed)
        if kind.extend not in models:
            with device:
                models[kind.extend] = kind.extend(base, setting).eval()
        made[name] = kind(name, models[kind.extend], setting)
    return made
