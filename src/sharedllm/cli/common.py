"""Code shared by the commands that loads quickly: options, progress and notes on stderr, checks of names.

Nothing here or at the top of a command's module imports torch or transformers, so that help, a typo and a missing file
are answered at once. Code that needs a model is in `loading`, which commands import in their bodies.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..context.policies import POLICIES
from ..scoring import SCORES
from ..utils.errors import UserError, clipped, recovery
from ..utils.files import check_writable, is_uri, there
from ..utils.model_names import checkpoint, hides_bundled
from ..utils.text_files import check_file, check_named, harmless

stderr = Console(stderr=True)
# Between two lines of progress where no bar can be drawn.
SECONDS_A_LINE = 15.0


def check_model(name: str | None) -> str | None:
    """Refuse a model's name that can't exist, before anything is loaded for it; None means no model. Returns the name.

    Raises:
        UserError: it is neither an existing folder nor a hub id.
    """
    if name is not None:
        checkpoint(name)
        if hides_bundled(name):
            note(f"{name} is the folder here, not the bundled model of that name", "yellow")
    return name


def filled(value: str) -> str:
    """The name of a file or folder. Blank, as of a variable of the shell that isn't set, it would be the current folder.

    Raises:
        UserError: it is blank.
    """
    if not value.strip():
        raise UserError("it is blank: name a file or a folder; the current one is `.`.")
    return value


def given_path(value: str | Path) -> Path:
    """The path of an argument or option, or its default. Raises as `filled`."""
    return value if isinstance(value, Path) else Path(filled(value))


def check_output(folder: Path | None) -> Path | None:
    """Refuse an output folder that can't be written to, before the work whose result is for it. Returns it.

    Raises:
        UserError: it can't be written to.
    """
    if folder is not None:
        check_writable(folder, "-o")
    return folder


def output_option(about: str) -> Any:
    """The option -o of a command that writes a folder."""
    return typer.Option("-o", "--output", parser=given_path, metavar="<path>", callback=check_output, help=about)


def output_file_option(about: str) -> Any:
    """The option -o of a command that writes one file; see `check_not_read`."""
    about = f"{about} One of that name is replaced."
    return typer.Option("-o", "--output", parser=given_path, metavar="<path>", callback=_check_file_output, help=about)


def _check_file_output(file: Path) -> Path:
    """
    Raises:
        UserError: it can't be written, or its folder is missing: a mistyped one is not made.
    """
    check_writable(file.parent, "-o", file)
    if not there(file.parent):
        raise UserError(f"-o: the folder {clipped(str(file.parent))} does not exist: create it, or name another one.")
    return file


def check_not_read(output: Path, name: str) -> None:
    """Refuse to write a command's result over what it reads.

    Raises:
        UserError: `output` is the file of that name.
    """
    if name != "-" and there(name) and output.exists() and output.samefile(name):
        raise UserError(f"-o {output} is a file that is read: name another one.")


ResultsOption = Annotated[Path, output_option("Folder for the results; an interrupted run resumes.")]
ModelOption = Annotated[
    str, typer.Option("--model", callback=check_model, help="Folder, hub id, or name of a bundled model.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
SelectionOption = Annotated[
    str | None,
    typer.Option(
        help="Which parts stay fine: " + "; ".join(f"{name}, {about}" for name, about in POLICIES.about.items())
    ),
]
KeepAllOption = Annotated[
    bool, typer.Option("--keep-all", help="Keep every token, so that each question selects within its --budget.")
]
SCORE_HELP = f"How a budget is spent: {SCORES.names}; meaning, for models that `sharedllm extend` made."
ScoreOption = Annotated[str | None, typer.Option(help=f"{SCORE_HELP} Default: depends on the model.")]
NewTokensOption = Annotated[
    int | None, typer.Option(min=1, help="Longest answer. Default: 128 tokens, or half the window if that is less.")
]
BatchTokensOption = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens read at once, which bounds working memory. Default: depends on free memory."),
]


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; yields a function that advances it and may set its total. If stderr is not a terminal, work
    that takes long writes a line now and then instead."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=stderr, transient=True, disable=not stderr.is_terminal, get_time=time.monotonic
    ) as bar:
        task = bar.add_task(harmless(label), total=total)
        said = time.monotonic()

        def update(advance: float, total: float | None = None) -> None:
            nonlocal said
            bar.update(task, advance=advance, total=total)
            if bar.disable and time.monotonic() - said >= SECONDS_A_LINE:
                said = time.monotonic()
                now = bar.tasks[task]
                of = f" of {now.total:,.0f}" if now.total else ""
                left = f", {timedelta(seconds=round(seconds))} left" if (seconds := now.time_remaining) else ""
                note(f"{label}: {now.completed:,.0f}{of}{left}")

        yield update


@contextmanager
def status_line(label: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is done now; yields a function that changes it. If stderr is not a terminal, a change is
    written as a line of its own now and then instead."""
    said = time.monotonic()

    def tell(line: str) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_A_LINE:
            said = time.monotonic()
            note(line)

    if not stderr.is_terminal:
        yield tell
        return
    with stderr.status(label) as status:
        yield status.update


def check_source(name: str, *, lost: bool = False) -> None:
    """Refuse a missing memory or text file, and a memory without its manifest, before anything is loaded for it.

    Args:
        lost: the manifest may be lost.

    Raises:
        UserError: nothing of that name exists, or it is such a memory.
    """
    if name == "-" or is_uri(name):
        return
    check_named(name)
    if there(name):
        path = Path(name)
        if not lost and (path / "blocks").is_dir() and not (path / "manifest.json").exists():
            raise UserError(f"{name} lacks its manifest.json: {recovery(name)} makes a memory of its blocks.")
        return
    if Path(name).suffix == ".memory":
        raise UserError(f"{name} does not exist: check the name, or make it with `sharedllm read`.")
    check_file(name)


def check_no_corpus(memory: Path) -> None:
    """Refuse a corpus where a memory is to be changed.

    Raises:
        UserError: it is one.
    """
    from ..corpus.opening import recognised

    if recognised(memory):
        raise UserError(
            f"{memory} is a corpus, and this is for memories: run `sharedllm read-corpus` with all sources that it is to have."
        )


def check_recipe(path: Path) -> None:
    """Refuse a missing recipe, before anything is loaded for it.

    Raises:
        UserError: nothing of that name exists.
    """
    if not there(path):
        raise UserError(f"can't read the recipe {path}: it does not exist; check the name.")


def note(line: str, style: str | None = None) -> None:
    """Print one line on stderr; it may contain any names."""
    stderr.print(harmless(" ".join(line.split("\n"))), style=style, highlight=False, markup=False, soft_wrap=True)


def note_repair(memory: str | Path) -> None:
    """Say what reads the lost parts of a memory again."""
    note(
        f"what is lost is read again by `sharedllm read FILES -o {memory} --append`, with the files of these documents"
    )


def print_json(**values: Any) -> None:
    print(json.dumps(values, indent=1))


def tokens_of_length(text: str, window: int, option: str = "--lengths") -> int:
    """Parse a length in tokens: a number such as 4096, thousands or millions (4K is 4,096, 1M is 1,048,576), or windows
    (4W)."""
    text = text.strip()
    units = {"W": window, "K": 2**10, "M": 2**20}
    unit = units.get(text[-1:].upper())
    try:
        value = float(text) if unit is None else float(text[:-1]) * unit
    except ValueError:
        value = -1.0
    if not value >= 0 or not value.is_integer():
        raise UserError(f"{option}: {text!r} is not a number of tokens or windows: write, for instance, 0,512,64K,4W.")
    return int(value)
