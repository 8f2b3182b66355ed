"""What figures depend on besides the model: versions, hardware, and how fast it multiplies matrices."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers


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


def peak_operations(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations a second of a large matrix product: what rates are compared with."""
    size = 2048 if device.type == "cpu" else 8192
    left = torch.randn(size, size, device=device, dtype=dtype)
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < end:
        start = time.perf_counter()
        _ = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def _cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
