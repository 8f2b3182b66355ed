"""Ablations: variants of one recipe, several seeds each, on equal tokens. Runs missing runs and makes one table."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from scipy.special import stdtrit

from ..utils.errors import UserError
from ..utils.files import write_text
from .checkpoint import FREE, check_recipe
from .log import read_log
from .recipe_file import build_recipe
from .run import train
from .setup import check_model
from .study import Study, chosen, settings


def run_study(
    study: Study, console: Console | None = None, only: Sequence[str] | None = None, reference: bool = True
) -> list[dict[str, Any]]:
    """Run all missing runs; returns one row per variant (see `table`).

    Args:
        only, reference: as for `chosen`.

    Raises:
        UserError: an existing run was made by another recipe; as `chosen`; or a variant has a model that can't be; before
            anything is trained.
    """
    recipes = chosen(study, only, reference)
    for variant, recipe in recipes.items():
        try:
            check_model(recipe)
        except UserError as error:
            raise UserError(f"variant {variant}: {error}") from None
    for seed in study.seeds:
        for variant in recipes:
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
    """The table in Markdown: difference from the reference ± half of the 95 % interval; the numbers themselves, if that has not
    run."""
    numbers = list(dict.fromkeys(key for row in rows for key in row if key not in ("variant", "seeds", "changes")))
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
