"""Without a query: parts nearer to the running text stay finer (paper, language modelling)."""

from jaxtyping import Int
from torch import Tensor

from ..tree import Nodes
from .base import NodeView


class Right:
    """Scores a node by its position, so that of two siblings the right one is selected."""

    name = "right"
    needs_query = False

    def scores(self, nodes: Nodes, view: NodeView) -> Int[Tensor, " n"]:
        return nodes.start
