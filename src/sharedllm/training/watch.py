"""Early warning: the gradient norm leaves its usual range before the loss becomes NaN."""

from collections import deque
from statistics import median


class NormWatch:
    """Compares each step's norm with the median of the steps before.

    Args:
        times: how many medians are too much. steps: how many norms are remembered; no warning before a fifth of them.
    """

    def __init__(self, times: float = 10.0, steps: int = 50):
        self.times, self.least = times, steps // 5
        self.norms: deque[float] = deque(maxlen=steps)

    def __call__(self, norm: float) -> float | None:
        """The norm in medians, if that is too much; such a norm is not remembered. Else None."""
        usual = median(self.norms) if len(self.norms) >= self.least else 0.0
        if usual > 0 and norm > self.times * usual:
            return norm / usual
        self.norms.append(norm)
        return None
