"""matplotlib, for figures that are written to files."""

from typing import Any

from .extras import missing


def pyplot() -> Any:
    """`matplotlib.pyplot`, which opens no window.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise missing("plot", "matplotlib") from None
    return plt
