"""`sharedllm ablate`: variants of a recipe, several seeds each, one table."""

from pathlib import Path
from typing import Annotated

import typer

from ..utils.errors import UserError
from .common import JsonOption, check_recipe, given_path, note, print_json, stderr


def command(
    study: Annotated[
        Path, typer.Argument(parser=given_path, metavar="<path>", help="YAML file with recipe, variants and seeds.")
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for all variants.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A variant to run, besides the first one; repeatable.")
    ] = None,
    reference: Annotated[
        bool, typer.Option(help="Run the first variant beside those of --only, for the differences from it.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Run every variant with every seed (finished runs are kept), and write one table."""
    check_recipe(study)
    from ..training.study import chosen, load_study

    loaded = load_study(study, set_)
    chosen(loaded, only, reference)
    # All of this loads torch and transformers.
    from .loading import quiet

    try:
        from ..training.ablation import markdown, run_study, write_table
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'sharedllm[train]'.") from None
    quiet()
    try:
        rows = run_study(loaded, stderr, only, reference)
    except (KeyboardInterrupt, SystemExit):
        note("the same command goes on: finished runs are kept, and the others go on from their last checkpoints")
        raise
    path = write_table(loaded, rows)
    if json:
        print_json(table=rows)
    else:
        print(markdown(rows), end="")
        note(f"wrote {path}")
