"""Time and memory of reading a context and scoring one window over it, compared with full attention of the base."""

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..causal_lm import SharedLLMForCausalLM
from ..utils.hardware import now


@dataclass(frozen=True)
class Cost:
    """Seconds, and peak memory above what the process held before, in bytes (None if unknown)."""

    seconds: float
    peak_bytes: int | None


def _status(field: str) -> int | None:
    """A field of this process's memory status in bytes; Linux only."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _return_freed_memory() -> None:
    """Return memory freed by earlier work, which would hide what this work needs. Only the GNU C library supports this."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(work: Callable[[], object]) -> Cost:
    """Run the work once and measure it."""
    _return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
        before = _status("VmRSS")
    except OSError:
        before = None
    start = now()
    work()
    seconds = now() - start
    peak = _status("VmHWM") if before is not None else None
    return Cost(seconds, max(0, peak - before) if peak is not None and before is not None else None)


@torch.no_grad()
def costs(
    model: SharedLLMForCausalLM,
    base: nn.Module,
    ids: Tensor,
    lengths: list[int],
    batch_tokens: int,
    limit: float,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[dict[int, Cost], dict[int, Cost]]:
    """Cost by context length of SharedLLM and of full attention, alternating.

    Both end with the logits of the last window. Full attention stops before the length that is expected to take longer
    than `limit` seconds.
    """
    window = model.config.window
    ours: dict[int, Cost] = {}
    full: dict[int, Cost] = {}

    def run_ours(length: int) -> None:
        memory = model.read(ids[:, :length], batch_tokens=batch_tokens)
        model(ids[:, length : length + window], memory=memory, use_cache=False)

    def run_full(length: int) -> None:
        base(ids[:, : length + window], use_cache=False, logits_to_keep=window)

    run_ours(lengths[0])
    run_full(lengths[0])
    for length in lengths:
        ours[length] = measure(lambda n=length: run_ours(n))
        # Doubling the length takes at most four times as long.
        if not full or 4 * full[max(full)].seconds <= limit:
            full[length] = measure(lambda n=length: run_full(n))
        progress(1)
    return ours, full
