"""The command line. Answers go to stdout, everything else to stderr; errors are one line and exit code 2."""

import io
import sys

from ..utils.errors import UserError
from .app import app

STOPPED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, then exit: 0, 1 if a check found something, 2 for a user's mistake, 130 if interrupted.
    `--debug` shows tracebacks."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As for stderr: a name that can't be encoded does not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(args=[a for a in arguments if a != "--debug"], prog_name="sharedllm", standalone_mode=False)
    except Exception as error:
        # Errors of the argument parser have their own message; any other error keeps its traceback.
        usage = getattr(error, "format_message", None)
        if debug or not (usage or isinstance(error, UserError | OSError)):
            raise
        print(f"error: {' '.join((usage() if usage else str(error)).split())}", file=sys.stderr)
        sys.exit(2)
    if code == STOPPED:  # the argument parser's code for Ctrl-C
        print("stopped", file=sys.stderr)
    sys.exit(code or 0)


__all__ = ["main"]
