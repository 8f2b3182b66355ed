"""Peak memory: from a GPU's allocator, or of a separate process on a CPU."""

import contextlib
import ctypes
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ..systems import SYSTEMS
from ..utils.hardware import peak_resident

# Modules that the fork server imports once, so that new processes have them.
PRELOAD = ["sharedllm.benchmark.measure", *(s.timed.partition(":")[0] for s in SYSTEMS.values() if s.timed)]

# The exit code of a process that the system ended for want of memory; Windows has no such signal.
KILLED = -getattr(signal, "SIGKILL", 9)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; the CPU's allocator says so only in its message."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def peak_growth(work: Callable[[], object]) -> int:
    """The most bytes that this process holds during the work, above what it held before."""
    with contextlib.suppress(OSError, AttributeError):
        # Memory freed by earlier work would hide what this work needs, so have the GNU C library return it.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = _status("VmRSS")
    before = peak_resident() if before is None else before
    work()
    peak = _status("VmHWM")
    return max(0, (peak_resident() if peak is None else peak) - before)


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a separate process, which is killed first when memory runs out, and return its result.

    Raises:
        MemoryError: it ran out of memory, or was killed.
        RuntimeError: it failed otherwise.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
    else:  # Windows
        context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, torch.get_num_threads(), function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        status, result = receiver.recv()
    except EOFError:
        process.join()
        status = "OOM" if process.exitcode == KILLED else "error"
        result = f"the process ended with {process.exitcode}"
    finally:
        receiver.close()
        if process.is_alive():
            process.join(timeout=10)
        process.kill()
    if status == "OOM":
        raise MemoryError(result)
    if status == "error":
        raise RuntimeError(f"measuring memory failed: {result}")
    return result


def _serve(sender: Connection, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    torch.set_num_threads(threads)
    try:
        sender.send(("done", function(*arguments)))
    except Exception as error:
        sender.send(("OOM" if is_out_of_memory(error) else "error", f"{type(error).__name__}: {error}"))


def _status(field: str) -> int | None:
    """A field of this process's memory status in bytes; Linux only."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
