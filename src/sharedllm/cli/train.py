"""`sharedllm train`: run or resume a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from ..utils.errors import UserError
from .common import JsonOption, check_recipe, given_path, note, print_json, stderr


def command(
    recipe: Annotated[
        Path,
        typer.Argument(parser=given_path, metavar="<path>", help="YAML file; recipes/reference.yaml shows every key."),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value that overrides the recipe's.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step, with a checkpoint; run again to resume.")
    ] = None,
    resume_from: Annotated[Path | None, typer.Option(help="Checkpoint to resume from; default: the last one.")] = None,
    json: JsonOption = False,
) -> None:
    """Train a model by a recipe. Run the same command again to resume."""
    check_recipe(recipe)
    from ..training import load_recipe

    loaded = load_recipe(recipe, set_)
    try:
        loaded.check_files()
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from None
    # All of this loads torch and transformers.
    from .loading import quiet

    try:
        from ..training.checkpoint import latest
        from ..training.run import train
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'sharedllm[train]'.") from None
    quiet()
    try:
        folder = train(loaded, max_steps=max_steps, resume_from=resume_from, console=stderr)
    except (KeyboardInterrupt, SystemExit):
        last = latest(Path(loaded.output) / "checkpoints")
        note(f"the same command goes on from {last or f'the beginning (checkpoint_every={loaded.checkpoint_every})'}")
        raise
    if json:
        print_json(output=str(folder), log=str(Path(loaded.output) / "log.jsonl"))
    elif folder.name == "model":
        note(f"wrote {folder}")
    else:
        note(f"stopped before step {loaded.steps}, in {folder}: run the command again to resume")
