"""What a step costs: operations by a counter, the device's peak by a matrix product, memory by the system."""

import resource
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_operations(run: Callable[[], None]) -> int:
    """Floating-point operations of what `run` does, as it does it (recomputed activations count)."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def peak_operations(device: torch.device, precision: str, seconds: float = 0.5) -> float:
    """Operations a second of a large matrix product: what a step's rate is compared with."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 1024 if device.type == "cpu" else 8192
    left = torch.randn(size, size, device=device, dtype=dtype)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        _ = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def peak_memory_mb(device: torch.device) -> float:
    """Most memory that this process has held so far: of the device, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
