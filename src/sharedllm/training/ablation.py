"""Ablations: variants of one recipe, several seeds each, on equal tokens. Runs missing runs and makes one table."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from scipy.special import stdtrit

from ..utils.errors import UserError
from ..utils.files import write_text
from .checkpoint import FREE, check_recipe
from .log import read_log
from .recipe_file import build_recipe, replace_keys, substitute
from .run import train
from .setup import check_model
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


def load_study(path: Path, overrides: list[str] | None = None) -> Study:
    """Read an ablation file: `recipe` (a file in the same folder, or keys), `change` (keys for all), `variants`, `seeds`.

    Environment variables are substituted as in recipes; `overrides` are `key=value` for all variants.

    Raises:
        UserError: the file is missing or not YAML, or a variant is not a valid recipe; names it.
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
    seeds = content.get("seeds") or [0, 1, 2]
    if not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds={seeds} must be {_SHAPE['seeds'][1]}.")
    if "output" not in shared:
        raise UserError(f"{path}: output is missing: name the folder of the runs under change, or in the recipe.")
    study = Study(substitute(shared), substitute(content["variants"]), seeds)
    for name in study.variants:
        try:
            build_recipe(settings(study, name, study.seeds[0]))
        except ValueError as error:
            raise UserError(f"{path}: variant {name}: {error}") from None
    return study


def settings(study: Study, variant: str, seed: int) -> dict[str, Any]:
    """The recipe keys of one run."""
    changed = _changed(study.recipe, study.variants[variant] or {})
    output = str(Path(study.recipe["output"]) / variant.replace(" ", "-") / f"seed-{seed}")
    return changed | {"seed": seed, "output": output}


def run_study(study: Study, console: Console | None = None, only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run all missing runs; returns one row per variant (see `table`).

    Args:
        only: variants to run, besides the first one, the reference; default: all.

    Raises:
        UserError: an existing run was made by another recipe, there is no such variant, or one has a model that can't be;
            before anything is trained.
    """
    unknown = sorted(set(only or ()) - set(study.variants))
    if unknown:
        raise UserError(f"only={unknown[0]!r} is not a variant: use some of {', '.join(study.variants)}.")
    reference = next(iter(study.variants))
    chosen = [v for v in study.variants if only is None or v in only or v == reference]
    for variant in chosen:
        try:
            check_model(build_recipe(settings(study, variant, study.seeds[0])))
        except UserError as error:
            raise UserError(f"variant {variant}: {error}") from None
    for seed in study.seeds:
        for variant in chosen:
            recipe = build_recipe(settings(study, variant, seed))
            # For a finished run the paths of its text do not matter; for a run to resume, hashes of the data are compared.
            check_recipe(recipe, FREE | {"data"})
            if not (Path(recipe.output) / "model").is_dir():
                if console is not None:
                    console.print(f"{variant}, seed {seed}", style="bold", highlight=False)
                train(recipe, console=console)
    return table(study)


def table(study: Study) -> list[dict[str, Any]]:
    """For each variant and each number of the last validation: mean over seeds, and difference from the reference.

    The difference is paired by seed; its interval is Student's t at 95 %. Seeds that have not run are left out.
    """
    values: dict[str, dict[int, dict[str, float]]] = {}
    for variant in study.variants:
        values[variant] = {}
        for seed in study.seeds:
            path = Path(settings(study, variant, seed)["output"]) / "log.jsonl"
            found = [r["validation"] for r in read_log(path) if "validation" in r]
            if found and (path.parent / "model").is_dir():
                values[variant][seed] = _flat(found[-1])
    reference, rows = next(iter(study.variants)), []
    for variant, by_seed in values.items():
        row: dict[str, Any] = {"variant": variant, "seeds": sorted(by_seed), "changes": study.variants[variant]}
        for number in next(iter(by_seed.values()), {}):
            pairs = [(v[number], values[reference][s][number]) for s, v in by_seed.items() if s in values[reference]]
            differences = [a - b for a, b in pairs]
            row[number] = {"mean": mean(v[number] for v in by_seed.values())}
            if variant != reference and differences:
                row[number] |= {"difference": mean(differences), "half_width": _half_width(differences)}
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown: difference from the reference ± half of the 95 % interval."""
    numbers = [key for key in rows[0] if key not in ("variant", "seeds", "changes")]
    lines = ["| variant | seeds | " + " | ".join(numbers) + " |", "|---|--:|" + "--:|" * len(numbers)]
    for row in rows:
        cells = []
        for number in numbers:
            entry = row.get(number)
            if entry is None:
                cells.append("–")
            elif "difference" not in entry:
                cells.append(f"{entry['mean']:.3f}")
            else:
                width = entry["half_width"]
                cells.append(f"{entry['difference']:+.3f}" + (f" ± {width:.3f}" if math.isfinite(width) else ""))
        lines.append(f"| {row['variant']} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("-0.", "−0.") + "\n"


def write_table(study: Study, rows: list[dict[str, Any]]) -> Path:
    """Write table.json and table.md to the study's folder."""
    folder = Path(study.recipe["output"])
    write_text(folder / "table.json", json.dumps(rows, indent=1))
    write_text(folder / "table.md", markdown(rows))
    return folder / "table.md"


def _half_width(differences: list[float]) -> float:
    if len(differences) < 2:
        return math.inf
    quantile = float(stdtrit(len(differences) - 1, 0.975))
    return quantile * stdev(differences) / math.sqrt(len(differences))


def _flat(validation: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{group} {key}": value for group, entries in validation.items() for key, value in entries.items()}


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
