"""The environment of a measurement: versions, hardware, speed of matrix products, memory, operation counts."""

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from .errors import UserError


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def command_line() -> list[str]:
    """The command as typed, without the program's folder; names such as `__main__.py` become `sharedllm`."""
    program = Path(sys.argv[0]).name
    return ["sharedllm" if program == "__main__.py" else program, *sys.argv[1:]]


def default_device() -> torch.device:
    """Where the commands put a model: what SHAREDLLM_DEVICE names, else the GPU if there is one, else the CPU.

    Raises:
        UserError: that device is not known, or not there.
    """
    given = os.environ.get("SHAREDLLM_DEVICE", "")
    name = given.strip().lower() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if name.partition(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"`--device`, or SHAREDLLM_DEVICE, is {given!r}, which this machine or this build of PyTorch does not have: use cpu, "
            "or cuda, cuda:1, mps where there is such a GPU."
        ) from None
    return device


def fast_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16; others emulate them slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def inference_dtype(device: torch.device) -> torch.dtype | str:
    """The checkpoint's own dtype, or float32 on CPUs that emulate bf16 products."""
    return torch.float32 if device.type == "cpu" and not fast_bf16() else "auto"


def now() -> float:
    """`time.perf_counter`, after everything that a GPU was given to do: its kernels run on by themselves."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_operations(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float = 0.5,
    size: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations per second of a large matrix product, the reference for measured rates.

    Args:
        size: rows of the largest matrices; default: 2,048 on a CPU, 8,192 elsewhere. Where products are slow, smaller
            ones are all there is time for: a CPU that emulates bf16 takes a minute for a large one.
        clock: what counts as a second; `time.process_time` leaves out what other programs take of a CPU.
    """
    size = size or (2048 if device.type == "cpu" else 8192)
    rows, best, end = min(size, 256), 0.0, time.perf_counter() + seconds
    left = torch.randn(rows, rows, device=device, dtype=dtype)
    while best == 0 or time.perf_counter() < end:
        start = clock()
        _ = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent = clock() - start
        if spent > 0:  # some clocks tick too rarely for a small product
            best = max(best, 2 * rows**3 / spent)
        if rows < size:
            rows = min(2 * rows, size)
            left = torch.randn(rows, rows, device=device, dtype=dtype)
    return best


def count_operations(run: Callable[[], None]) -> int:
    """Floating-point operations that `run` executes, recomputed activations included. Masked scores count as computed."""
    # torch counts those of attention on a GPU, but leaves the CPU's kernel out.
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas: dict[Any, Any] = {
        on_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return counter.get_total_flops()


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Operations of attention, from the shapes (B, H, L, D), (B, G, S, D), (B, G, S, D') of its operands: two products."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


def _backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Those of its backward pass: the scores again, and the gradients of both products."""
    return 2 * math.prod(query[:3]) * key[2] * (3 * query[3] + 2 * value[3])


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far, in MB: allocated on the device, or resident in the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident() / 1e6


def peak_resident() -> int:
    """The most bytes that this process was ever resident with."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> int | None:
    """Free bytes on a device; None where the system does not report them."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    # A container may have less than its machine.
    most, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if most and used and most[0].isdigit():
        found.append(max(0, int(most[0]) - int(used[0])))
    return min(found, default=None)


def total_memory() -> int | None:
    """Bytes of memory of this machine, or of its container; None where the system does not report them."""
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    most = _lines("/sys/fs/cgroup/memory.max")
    if most and most[0].isdigit():
        found.append(int(most[0]))
    return min(found, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _cpu_name() -> str:
    """The processor's name if the system reports it, else its architecture."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
