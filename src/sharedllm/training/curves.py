"""The curves of a run from its log: loss by kind of sample, validation by context length, recall."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..utils.drawing import pyplot
from ..utils.extras import MissingExtra
from .log import read_log


def draw_curves(log: Path, path: Path, title: str) -> None:
    """Write the figure; does nothing if matplotlib is missing.

    Args:
        log: `log.jsonl` of a run. path: of the figure.
    """
    try:
        plt = pyplot()
    except MissingExtra:
        return
    records = read_log(log)
    validations = [(r["step"], r["validation"]) for r in records if "validation" in r]
    domains = [name for name in (validations[-1][1] if validations else {}) if name != "recall"]
    figure, axes = plt.subplots(1, 2 + len(domains), figsize=(4.2 * (2 + len(domains)), 3.8), layout="constrained")
    losses: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for kind, loss in record.get("loss", {}).items():
            losses.setdefault(kind, []).append((record["step"], loss))
    for kind, points in sorted(losses.items()):
        axes[0].plot([s for s, _ in points], _smooth([v for _, v in points]), label=kind)
    axes[0].set(title="training loss, nats a label", xlabel="step")
    for ax, domain in zip(axes[1:], domains, strict=False):
        for length in validations[-1][1][domain]:
            ax.plot(
                [s for s, _ in validations],
                [v[domain].get(length) for _, v in validations],
                "o-",
                ms=3,
                label=f"{length}",
            )
        ax.set(title=f"validation, {domain}", xlabel="step")
        ax.legend(title="tokens of context", frameon=False, fontsize=8, title_fontsize=8)
    for kind in validations[-1][1].get("recall", {}) if validations else ():
        axes[-1].plot([s for s, _ in validations], [v["recall"][kind] for _, v in validations], "o-", ms=3, label=kind)
    axes[-1].set(title="samples recalled whole", xlabel="step", ylim=(-0.03, 1.03))
    for ax in axes:
        ax.grid(alpha=0.3)
    for ax in (axes[0], axes[-1]):
        if ax.get_legend_handles_labels()[1]:
            ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _smooth(values: Iterable[float], share: float = 0.8) -> list[Any]:
    """Running mean with exponential weights, the first values unbiased."""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        result.append(total / weight)
    return result
