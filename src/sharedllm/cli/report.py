"""`sharedllm report`: tables and figures from the results of `sharedllm eval`."""

from pathlib import Path
from typing import Annotated

import typer

from ..utils.files import write_text
from .common import note


def command(
    folders: Annotated[list[Path], typer.Argument(help="Folders written by `sharedllm eval`, or a cells.json.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; default: the first one's.")] = None,
    ours: Annotated[str, typer.Option(help="The system with which the others are compared.")] = "sharedllm",
    plots: Annotated[bool, typer.Option(help="Draw the figures.")] = True,
) -> None:
    """Write report.md, figures, and cells.json: all results in one file, from which the report can be made again."""
    from ..evaluation.cells import index
    from ..evaluation.plot import draw
    from ..evaluation.report import markdown
    from ..evaluation.results import NAME, load_runs, save_runs

    runs = [run for folder in folders for run in load_runs(folder)]
    cells, window = index(runs), runs[0].about["window"]
    output = output or (folders[0] if folders[0].is_dir() else folders[0].parent)
    text = markdown(cells, window, ours)
    write_text(output / "report.md", text)
    files = [output / "report.md", save_runs(runs, output / NAME), *(draw(cells, window, output) if plots else [])]
    print(text)
    note("wrote " + ", ".join(map(str, files)))
