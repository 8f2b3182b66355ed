"""The command line. Answers go to stdout, everything else to stderr; errors are one line and exit code 2."""

import io
import os
import re
import signal
import sys
import traceback
from contextlib import suppress

from ..utils.errors import UserError, clipped, no_room, refusal
from ..utils.files import refused
from ..utils.text_files import harmless
from .app import parser
from .usage import usage_line

STOPPED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, then exit: 0, 1 if a check found something, 2 for a user's mistake, 130 if interrupted.
    `--debug` shows tracebacks."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As for stderr: a name that can't be encoded does not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    elif sys.stdout is None:
        sys.stdout = _Closed()
    try:
        code = parser()(
            args=_device_first([a for a in arguments if a != "--debug"]), prog_name="sharedllm", standalone_mode=False
        )
        sys.stdout.flush()
    except KeyboardInterrupt:  # before the argument parser took care of it, or after
        code = STOPPED
    except Exception as error:
        if isinstance(error, OSError):
            _give_up_stdout()
        if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands alone, such as `sharedllm memory`
            print(error)
            sys.exit(0)
        # Errors of the argument parser have their own message; any other error keeps its traceback.
        usage = getattr(error, "format_message", None)
        if not (usage or isinstance(error, UserError | OSError)):
            raise
        if debug:
            traceback.print_exc()
        said = usage_line(error, arguments) if usage else _without_number(error)
        # A name may be as long as a command line.
        line = re.sub(r"(\S{100})\S{400,}", r"\1…", re.sub(r"[ \t\n]+", " ", said).strip())
        line = f"error: {line}"
        print(harmless(line), file=sys.stderr)
        sys.exit(2)
    if code == STOPPED:  # the argument parser's code for Ctrl-C
        # Whoever presses it again wants nothing else.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("stopped", file=sys.stderr)
    sys.exit(code or 0)


def _without_number(error: Exception) -> str:
    """An error's message; of the operating system's errors the file and the reason."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error)
    if not isinstance(error.filename, str):
        return no_room("a file or standard output", error) or error.strerror
    name = clipped(refused(error))
    return no_room(name, error) or f"{name} can't be used: {refusal(error)}."


def _device_first(arguments: list[str]) -> list[str]:
    """`--device NAME` is an option of the program, and may come anywhere."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for i, argument in enumerate(arguments[:end]):
        taken = 2 if argument == "--device" and i + 1 < end else int(argument.startswith("--device="))
        if taken:
            return [*arguments[i : i + taken], *arguments[:i], *arguments[i + taken :]]
    return arguments


class _Closed(io.TextIOBase):
    """Stands for a standard output that is closed: an answer must not be lost without a word."""

    def write(self, text: str) -> int:
        raise UserError("standard output is closed: open it, or send the answer into a file.")


def _give_up_stdout() -> None:
    """What can't be written now can't be written when Python ends either; it would complain then."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


__all__ = ["main"]
