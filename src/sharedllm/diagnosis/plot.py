"""The figure of a diagnosis: recall by single layers, and by the depth to which the context was read."""

from pathlib import Path

from ..utils.drawing import pyplot
from .measure import Diagnosis

ONLY, BUT, COPY = "#0b6e99", "#c8553d", "#7a8793"


def draw(diagnosis: Diagnosis, title: str, path: Path) -> None:
    """Write the figure.

    Raises:
        UserError: matplotlib is not installed.
    """
    plt = pyplot()
    from matplotlib.ticker import PercentFormatter

    scores = {score.name: score for score in diagnosis.by_layers}
    layers = scores["all"].layers
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.bar(
        [i - 0.2 for i in layers],
        [scores[f"only {i}"].recall for i in layers],
        0.4,
        color=ONLY,
        label="only this layer",
    )
    left.bar(
        [i + 0.2 for i in layers], [scores[f"all but {i}"].recall for i in layers], 0.4, color=BUT, label="all but this"
    )
    left.axhline(scores["all"].recall, color=COPY, ls=":", label="all layers")
    left.set(title="Digits recalled, by the layers that see the context", xlabel="layer", xticks=layers, ylim=(0, 1.3))
    left.legend(frameon=False, ncols=3, loc="upper center", fontsize=9)
    depths = [score.depth for score in diagnosis.by_depth]
    which = "layers " + ", ".join(map(str, diagnosis.needed)) if diagnosis.needed else "all layers"
    right.plot(depths, [s.recall for s in diagnosis.by_depth], "o-", color=ONLY, label="digits recalled")
    right.plot(depths, [s.copy for s in diagnosis.by_depth], "s--", color=COPY, label="tokens copied")
    right.set(title=f"By the depth that the context is read to ({which} see it)", xlabel="layers read through")
    right.set(xticks=depths, ylim=(0, 1.3))
    right.legend(frameon=False, ncols=2, loc="upper center", fontsize=9)
    for ax in (left, right):
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
