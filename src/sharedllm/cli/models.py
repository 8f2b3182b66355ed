"""`sharedllm models`: the models on this disk that can be used."""

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from ..utils.text_files import harmless
from .common import JsonOption, note, print_json


def command(
    folders: Annotated[
        list[str] | None, typer.Argument(help="More folders to look into: of a model, or with models in them.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Models that can't be used as well, with the reason.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the models on this disk: bundled ones, those in the cache of the Hugging Face hub, and those in folders."""
    from ..installation.models import bundled, cached, in_folder

    found = [*bundled(), *cached(), *(model for folder in folders or [] for model in in_folder(folder))]
    kept = [model for model in found if everything or model.kind != "other"]
    if json:
        print_json(models=[asdict(model) for model in kept])
    else:
        rows = [
            tuple(
                map(harmless, (m.name, m.kind, m.family, _size(m.nbytes), m.about, "" if m.name == m.path else m.path))
            )
            for m in kept
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if hidden := len(found) - len(kept):
        why = Counter(model.family for model in found if model.kind == "other")
        names = ", ".join(harmless(name) for name, _ in why.most_common(5))
        note(f"{hidden} more can't be used ({names}): --all shows them, and why.", style="dim")


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"
