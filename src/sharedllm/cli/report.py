"""`sharedllm report`: tables and figures from the results of `sharedllm eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..utils.files import write_text
from .common import note


def command(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `sharedllm eval` wrote.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; default: the first one.")] = None,
    ours: Annotated[str, typer.Option(help="The method that the others are compared with.")] = "sharedllm",
    plots: Annotated[bool, typer.Option(help="Draw the figures.")] = True,
) -> None:
    """Make report.md and figures."""
    from ..evaluation.plot import draw
    from ..evaluation.report import index, markdown

    cells = index(folders)
    window = json.loads((folders[0] / "run.json").read_text())["about"]["window"]
    output = output or folders[0]
    text = markdown(cells, window, ours)
    write_text(output / "report.md", text)
    files = [output / "report.md", *(draw(cells, window, output) if plots else [])]
    print(text)
    note("wrote " + ", ".join(map(str, files)))
