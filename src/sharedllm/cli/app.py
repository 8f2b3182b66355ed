"""All commands, registered in one place."""

import typer

from . import (
    ablate,
    ask,
    bench,
    calibrate,
    chat,
    demo,
    diagnose,
    eval,
    explain,
    extend,
    generate,
    info,
    memory,
    official,
    qa,
    questions,
    read,
    recall,
    report,
    selection,
    serve,
    tokenize,
    train,
)

app = typer.Typer(
    help="Read texts far longer than a model's window, and ask them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="--debug, anywhere, shows the traceback of an error.",
)
for module in (
    demo,
    info,
    extend,
    read,
    ask,
    explain,
    chat,
    serve,
    generate,
    bench,
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
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(memory.app, name="memory")
