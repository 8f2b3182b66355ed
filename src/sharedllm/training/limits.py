"""What the numbers of a recipe, and its kinds of samples, may be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.questions import QUESTIONS
from ..systems.trained import system_of_type
from ..utils.errors import UserError, meant
from ..utils.model_names import checkpoint

# By the name of a key: the least value.
LEAST = {
    "steps": 1,
    "seed": 0,
    "context": 0,
    "running": 1,
    "questions": 1,
    "batch_tokens": 1,
    "micro_tokens": 1,
    "weight_decay": 0,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "log_every": 1,
    "validation.every": 1,
    "validation.rows": 1,
    "validation.task_rows": 0,
    "lora.rank": 1,
}
ABOVE_ZERO = ("clip", "lora.alpha", "distil.weight", "distil.temperature")
# Kinds of samples beside the questions.
KINDS = ("text", "alone", "echo", "copy", "instructions", "questions", "crowd")
# From 0 to less than 1.
PARTS = ("warmup", "lora.dropout", "data.validation_share")
# Keys that hold several numbers, none below 0; of the latter at least one is above.
NOT_NEGATIVE = ("train", "weights", "validation.windows")
SHARES = ("kinds", "distractors")


def check_numbers(recipe: Any) -> None:
    """
    Raises:
        UserError: a number is out of its range, or a phase's; names the key.
    """
    for name, least in LEAST.items():
        value = _value(recipe, name)
        if value is not None and value < least:
            raise UserError(f"{name}={value} must be at least {least}.")
    for name in ABOVE_ZERO:
        value = _value(recipe, name)
        if value is not None and value <= 0:
            raise UserError(f"{name}={value} must be above 0.")
    for name in PARTS:
        value = _value(recipe, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"{name}={value} must be at least 0 and below 1.")
    for name in NOT_NEGATIVE:
        value = _value(recipe, name)
        numbers = value.values() if isinstance(value, Mapping) else value
        if min(numbers, default=0) < 0:
            raise UserError(f"{name}={value} must not be negative.")
    if len(recipe.betas) != 2 or not all(0 <= beta < 1 for beta in recipe.betas):
        raise UserError(f"betas={recipe.betas} must be two numbers, at least 0 and below 1, such as [0.9, 0.999].")
    for phase in recipe.phases():
        for name, least in LEAST.items():
            value = getattr(phase, name, None)
            if value is not None and value < least:
                raise UserError(f"schedule: {name}={value} must be at least {least}.")
        for name in SHARES:
            shares = getattr(phase, name)
            if min(shares.values(), default=-1) < 0 or sum(shares.values()) <= 0:
                raise UserError(f"{name}={shares} must have no share below 0, and at least one above.")
        if min(phase.distractors) < 0:
            raise UserError(f"distractors={phase.distractors} must be numbers of other contexts, none below 0.")


def check_kinds(recipe: Any) -> None:
    """
    Raises:
        UserError: a kind of sample, or a task, that there is not, or instructions without a file of them.
    """
    known = sorted({*KINDS, *QUESTIONS, *QUESTIONS.aliases})
    named = {"kinds": {kind for phase in recipe.phases() for kind in phase.kinds}, "weights": recipe.weights}
    for key, kinds in {**named, "validation.tasks": recipe.validation.tasks}.items():
        if wrong := next((kind for kind in kinds if kind not in known), None):
            raise UserError(f"{key}.{wrong} is not a kind of sample: {meant(wrong, known)}")
    if "instructions" in named["kinds"] and not recipe.data.instructions:
        raise UserError("kinds.instructions needs data.instructions: name a JSON-lines file.")


def check_running(recipe: Any, window: int, of: str = "the model") -> None:
    """Refuse running text that does not fit into a window, in tokens.

    Args:
        of: what has it, for the message.

    Raises:
        UserError: the running text of a phase is longer.
    """
    longest = max(phase.running for phase in recipe.phases())
    if longest > window:
        raise UserError(
            f"running={longest} does not fit into window={window} of {of}: lower running and raise context by as much, or raise "
            "model.window."
        )


def window_said(base: str) -> int | None:
    """The window, in tokens, that a model in a folder here has by its config.json; None if that does not say it.

    Transformers knows the window of every model, but takes seconds to load.
    """
    try:
        said = json.loads((Path(checkpoint(base)) / "config.json").read_text(encoding="utf-8"))
        extended = system_of_type(said.get("model_type", "")) is not None
        window = said["window"] if extended else said.get("text_config", said)["max_position_embeddings"]
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return None  # what is wrong with it is said when the model is loaded
    return window if type(window) is int and window > 0 else None


def _value(recipe: Any, name: str) -> Any:
    """The value of a key, such as `lora.rank`; None where what holds it is missing."""
    for part in name.split("."):
        recipe = None if recipe is None else getattr(recipe, part)
    return recipe
