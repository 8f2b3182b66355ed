"""The share of the fastest matrix product's rate that training steps reach."""

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..utils.hardware import count_operations, fast_bf16, peak_operations

# Measured once in a process, as an ablation trains many runs in one.
_peak = functools.cache(peak_operations)


class Utilisation:
    """Operations of a phase's micro-batches, beside what the device could do in the same time.

    clock  on a CPU the seconds of this program alone, so that the share is of what a busy machine leaves to it
    """

    def __init__(self, device: torch.device, precision: str, say: Callable[[str], None]):
        self.clock = time.process_time if device.type == "cpu" else time.perf_counter
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        if dtype == torch.bfloat16 and device.type == "cpu" and not fast_bf16():
            say("this CPU emulates products in bf16, slowly: with precision: fp32 it trains faster")
            dtype = torch.float32  # in which it multiplies fastest: the share is of that
        self._peak = _peak(device, dtype, clock=self.clock)
        self._operations: dict[int, int] = {}

    def counted(self, phase: int) -> bool:
        return phase in self._operations

    def count(self, phase: int, loss: Callable[[], Tensor]) -> None:
        """Count the operations of a micro-batch forward and backward. Its gradients are to be dropped: counting uses other
        kernels, which round differently."""
        self._operations[phase] = count_operations(lambda: loss().backward())

    def of(self, phase: int, micro_batches: int, *, since: float) -> float:
        """The share that so many micro-batches of a phase reached, from 0 to 1; `since` by the clock."""
        return self._operations[phase] * micro_batches / (self.clock() - since) / self._peak
