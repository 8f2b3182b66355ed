"""A diagnosis as tables on stdout."""

from rich.console import Console
from rich.table import Table

from .measure import Diagnosis


def show(found: Diagnosis) -> None:
    """Print recall, copying and loss by the layers that see the context and by depth, and the resulting settings."""
    console = Console()
    for title, scores in (("By the layers that see the context", found.by_layers), ("By depth", found.by_depth)):
        table = Table(title=title)
        table.add_column("layers")
        for name in ("recall", "copy", "loss"):
            table.add_column(name, justify="right")
        for score in scores:
            table.add_row(score.name, f"{score.recall:.0%}", f"{score.copy:.0%}", f"{score.loss:.3f}")
        console.print(table)
    if not found.needed:
        whole = found.by_layers[0].recall
        console.print(
            f"The base recalls {whole:.0%} of the digits inside its own window: train it to recall there first; the layers "
            "it needs can't be determined."
        )
        return
    console.print(
        f"Recall needs the context in layers {found.needed}, read through {found.depth} layers.\n"
        f"injection_map: {found.injection_map}\nlower_layers: {found.lower_layers}",
        highlight=False,
    )
