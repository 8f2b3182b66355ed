"""Commands in child processes that are killed: just before an operation on a file, or after some time."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sharedllm.cli import main

# Audit events of operations on files: what they are called with begins with a path.
OPERATIONS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


def in_a_child(command: list[str], folder: Path, operation: int | None = None, seconds: float | None = None) -> int:
    """Run a command in a child process, killed before an operation in a folder or after some time.

    Returns:
        Its exit code, -9 if it was killed.
    """
    child = os.fork()
    if child == 0:
        code = 70
        with suppress(BaseException), open(os.devnull, "w") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            if operation is not None:
                sys.addaudithook(killer(operation, folder))
            try:
                main(command)
            except SystemExit as end:
                code = int(end.code or 0)
        os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def operations(command: list[str], folder: Path) -> int:
    """How many operations on files in a folder a command does, which is run to its end in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        done = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal done
            done += event in OPERATIONS and str(arguments[0]).startswith(str(folder))

        with suppress(BaseException), open(os.devnull, "w") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            sys.addaudithook(hook)
            main(command)
        os.write(writing, str(done).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading, "rb") as counted:  # noqa: PTH123
        return int(counted.read())


def killer(operation: int, folder: Path) -> Callable[[str, tuple], None]:
    """An audit hook that kills this process just before its n-th operation on a file in a folder."""
    left = operation

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in OPERATIONS and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook
