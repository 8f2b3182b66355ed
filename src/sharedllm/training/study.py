"""The file of an ablation: variants of one recipe. Imports nothing slow, so that a fault in it is told at once."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from .recipe import Recipe
from .recipe_file import build_recipe, replace_keys, substitute
from .yaml_files import read_yaml

# The keys of an ablation file: what they may be, and the same in words.
_SHAPE = {
    "recipe": (str | dict, "a file or the keys of a recipe"),
    "change": (dict | None, "keys of a recipe"),
    "variants": (dict, "names, each with keys of a recipe"),
    "seeds": (list | None, "a list of whole numbers"),
}


@dataclass(frozen=True)
class Study:
    """An ablation file.

    recipe     recipe keys that all variants share
    variants   name → changed keys (`model.strides`: a dot addresses a nested key); the first variant is the reference
    seeds      each variant runs once per seed
    """

    recipe: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """By variant: its recipe with the first seed.

        Raises:
            UserError: one is not valid; names the variant, or says that all inherit what is wrong.
        """
        recipes = {}
        for variant in self.variants:
            try:
                recipes[variant] = build_recipe(settings(self, variant, self.seeds[0]))
            except ValueError as error:
                inherited = _fault(self.recipe)
                if inherited and str(error).startswith(inherited):
                    raise UserError(f"the recipe, which all variants inherit: {inherited}") from None
                raise UserError(f"variant {variant}: {error}") from None
        return recipes


def load_study(path: Path, overrides: list[str] | None = None) -> Study:
    """Read an ablation file: `recipe` (a file in the same folder, or keys), `change` (keys for all), `variants`, `seeds`.

    Environment variables are substituted as in recipes; `overrides` are `key=value` for all variants.

    Raises:
        UserError: the file is missing or not YAML, or a recipe is not valid; as `Study.recipes`.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) - _SHAPE.keys() or not content.get("variants"):
        raise UserError(f"{path} must hold recipe, variants and, if wanted, change and seeds.")
    for key, (kinds, form) in _SHAPE.items():
        if not isinstance(content.get(key), kinds):
            raise UserError(f"{path}: {key}={content.get(key)!r} must be {form}.")
    for name, changes in content["variants"].items():
        if not isinstance(name, str) or not isinstance(changes, dict | None):
            raise UserError(f"{path}: variant {name!r}: {changes!r} must be keys of a recipe, and its name text.")
        if name in ("", ".", "..") or set(name) & set("/\\"):
            raise UserError(f"{path}: variant {name!r}: a folder of its runs has this name: leave out slashes.")
    shared = content["recipe"]
    if isinstance(shared, str):
        shared = read_yaml(path.parent / shared, "the recipe")
        if not isinstance(shared, dict):
            raise UserError(f"{path.parent / content['recipe']} must hold keys and values.")
    shared = _changed(shared, content.get("change") or {})
    replace_keys(shared, overrides or [])
    seeds = [0, 1, 2] if content.get("seeds") is None else content["seeds"]
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds={seeds} must be {_SHAPE['seeds'][1]}.")
    if "output" not in shared:
        raise UserError(f"{path}: output is missing: name the folder of the runs under change, or in the recipe.")
    study = Study(substitute(shared), substitute(content["variants"]), seeds)
    try:
        _ = study.recipes
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return study


def chosen(study: Study, only: Sequence[str] | None = None, reference: bool = True) -> dict[str, Recipe]:
    """By variant to run: its recipe with the first seed.

    Args:
        only: variants to run; default: all. reference: the first one, too.

    Raises:
        UserError: there is no such variant; or one's base is not there, or has a window too small for it.
    """
    unknown = sorted(set(only or ()) - set(study.variants))
    if unknown:
        wrong = ", ".join(map(repr, unknown))
        raise UserError(f"only={wrong} is not a variant: use some of {', '.join(map(repr, study.variants))}.")
    wanted = set(study.variants if only is None else only) | ({next(iter(study.variants))} if reference else set())
    recipes = {variant: recipe for variant, recipe in study.recipes.items() if variant in wanted}
    for variant, recipe in recipes.items():
        try:
            recipe.check_base()
        except UserError as error:
            raise UserError(f"variant {variant}: {error}") from None
    return recipes


def settings(study: Study, variant: str, seed: int) -> dict[str, Any]:
    """The recipe keys of one run."""
    changed = _changed(study.recipe, study.variants[variant] or {})
    output = str(Path(study.recipe["output"]) / variant.replace(" ", "-") / f"seed-{seed}")
    return changed | {"seed": seed, "output": output}


def _fault(keys: dict[str, Any]) -> str:
    """What is wrong with a recipe of these keys; "" for nothing."""
    try:
        build_recipe(keys)
    except ValueError as error:
        return str(error)
    return ""


def _changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested keys with some replaced; `a.b` addresses a nested key."""
    result = copy.deepcopy(content)
    for key, value in changes.items():
        *path, last = key.split(".")
        target = result
        for name in path:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UserError(f"{key}: {name}={target!r} holds no keys.")
        target[last] = value
    return result
