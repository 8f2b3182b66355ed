"""A recipe from its YAML file: overrides, environment variables, and every value checked against the type of its key.

Unknown keys are refused by name.
"""

import dataclasses
import math
import os
import re
import sysconfig
import types
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..model.settings import RENAMED, Settings, check_settings
from ..systems.trained import trained_systems
from ..utils.errors import UserError, meant
from .recipe import Recipe
from .yaml_files import parse_yaml, read_yaml

# What other trainers call what recipes have by another name, and the fix.
_RATES = "a learning rate belongs to a part of the model, as train.everything=1e-4."
_TOKENS = "batch_tokens and micro_tokens say how many tokens a step and a micro-batch have."
OTHER_TRAINERS = {
    "lr": _RATES,
    "learning_rate": _RATES,
    "batch_size": _TOKENS,
    "gradient_accumulation_steps": _TOKENS,
    "epochs": "steps says how long to train.",
    "max_steps": "do you mean steps?",
    "bf16": "precision says it, as precision=bf16.",
    "gradient_checkpointing": "do you mean activation_checkpointing?",
}


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; `overrides` are `key=value` or `key.inner=value`, values in YAML.

    `${NAME}` in a string is replaced by an environment variable, `${STDLIB}` by the folder of Python's standard library.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, or a value is invalid.
    """
    path = Path(path)
    content = read_yaml(path, "the recipe")
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values; recipes/reference.yaml shows them.")
    replace_keys(content, overrides or [])
    try:
        return build_recipe(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def replace_keys(content: dict[str, Any], overrides: list[str]) -> None:
    """Set keys in place: `key=value` or `key.inner=value`, values in YAML.

    Raises:
        UserError: an override has another form, is not YAML, or addresses a key inside a value without keys.
    """
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"the override {override!r} must be key=value, such as steps=100 or model.window=1024.")
        target, *rest = content, *key.split(".")
        for name in rest[:-1]:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UserError(f"the override {override!r}: {name} holds no keys.")
        target[rest[-1]] = parse_yaml(value, f"the override {override!r}: {value!r}")


def build_recipe(content: dict[str, Any]) -> Recipe:
    """A recipe from its keys; see `load_recipe`."""
    recipe = _build(Recipe, substitute(todays_names(content)), "")
    if recipe.stage == "extend" and recipe.system == "sharedllm":
        check_settings(recipe.model, "model.")
        for name, hint in get_type_hints(Settings).items():
            kinds = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
            # The configuration checks the others.
            if name in recipe.model and {int, float, bool, str, types.NoneType}.issuperset(kinds):
                _build(hint, recipe.model[name], f"model.{name}")
    return recipe


def todays_names(content: dict[str, Any]) -> dict[str, Any]:
    """The keys inside a recipe under their current names. Other systems have their own settings of these names."""

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(inner) for inner in value]
        return {RENAMED.get(key, key): inner for key, inner in value.items()} if isinstance(value, dict) else value

    places = {"schedule", "validation"} | ({"model"} if content.get("system", "sharedllm") == "sharedllm" else set())
    return content | {key: rename(content[key]) for key in places & content.keys()}


def saved_keys(content: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recipe saved by an earlier version, under their current names."""
    content = dict(content)
    if "method" in content:
        # Trained full attention used to have the name of untrained full attention.
        method = content.pop("method")
        content["system"] = "tuned" if method == "full" else method
    return todays_names(content)


def substitute(value: Any) -> Any:
    """Substitute environment variables in all strings of dicts and lists; see `load_recipe`.

    Raises:
        UserError: a variable is not set; names it.
    """
    if isinstance(value, dict):
        return {key: substitute(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        name = match[1]
        known = sysconfig.get_paths()["stdlib"] if name == "STDLIB" else os.environ.get(name)
        if known is None:
            raise UserError(f"the environment variable {name} in {value!r} is not set: export {name}=….")
        return known

    return re.sub(r"\$\{(\w+)\}", replace, value)


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or a UserError that names the key."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        problems = []
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _build(option, value, where)
            except ValueError as error:
                problems.append(error)
        raise problems[0]
    if value is None:
        raise UserError(f"{where or 'the recipe'} has no value: give it one, or leave it out.")
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}={value!r} must be one of {', '.join(map(str, arguments))}.")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}={value!r} must hold keys and values.")
        return {_build(arguments[0], k, where): _build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise UserError(f"{where}={value!r} must be a list.")
        return [_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-5 as text.
        try:
            value = float(value)
        except ValueError:
            raise UserError(f"{where}={value!r} must be a number.") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}={value} must be a finite number.")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}={value!r} must be of type {kind.__name__}.")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where or 'the recipe'}={value!r} must hold keys and values.")
    prefix = f"{where}." if where else ""
    hints = get_type_hints(kind)
    if kind is Recipe and "method" in value:
        raise UserError(
            f"method is now called system: write system: with one of {', '.join(trained_systems())} "
            "(method: full is system: tuned)."
        )
    wrong = [
        f"{prefix}{key} is not a key of a recipe: {OTHER_TRAINERS.get(key) or meant(str(key), hints)}"
        for key in value
        if key not in hints
    ]
    if wrong:
        raise UserError(" ".join(wrong))
    for entry in dataclasses.fields(kind):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in value:
            raise UserError(f"{prefix}{entry.name} is missing.")
    return kind(**{key: _build(hints[key], inner, f"{prefix}{key}") for key, inner in value.items()})
