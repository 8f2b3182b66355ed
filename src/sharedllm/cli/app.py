"""All commands, registered in one place."""

import functools
import os
from typing import Annotated, Any

import typer
from typer.main import get_command

from ..utils.version import __version__
from . import (
    ablate,
    ask,
    bench,
    calibrate,
    chat,
    demo,
    diagnose,
    doctor,
    eval,
    explain,
    extend,
    generate,
    info,
    memory,
    models,
    official,
    qa,
    questions,
    read,
    read_corpus,
    recall,
    report,
    selection,
    serve,
    tokenize,
    train,
)
from .naming import NamedCommand

app = typer.Typer(
    help="Read texts far longer than a model's window, and ask them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="--device NAME and --debug, which shows the traceback of an error, may also follow the command.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sharedllm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(envvar="SHAREDLLM_DEVICE", help="cpu, cuda, cuda:1, mps. Default: the GPU if there is one."),
    ] = None,
) -> None:
    # A docstring here would replace the program's help.
    del version
    if device is not None:
        # Every command's model is loaded by `utils.hardware.default_device`, also in a process that it starts.
        os.environ["SHAREDLLM_DEVICE"] = device


for module in (
    demo,
    doctor,
    models,
    info,
    extend,
    read,
    read_corpus,
    ask,
    explain,
    chat,
    serve,
    generate,
    diagnose,
    calibrate,
    tokenize,
    questions,
    train,
    ablate,
    eval,
    recall,
    official,
    qa,
    selection,
    report,
):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"), cls=NamedCommand)(module.command)
app.add_typer(bench.app, name="bench")
app.add_typer(memory.app, name="memory")


@functools.cache
def parser() -> Any:
    """All commands, ready to parse arguments: made once, which takes some time."""
    return get_command(app)
