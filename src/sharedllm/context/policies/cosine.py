"""With a query: parts more similar to it stay finer (paper, question answering and instructions)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..tree import Nodes
from .base import NodeView


class Cosine:
    """Cosine between the hidden states at the last tokens of node and query, each after the first layer of its
    model."""

    name = "cosine"
    needs_query = True

    def scores(self, nodes: Nodes, view: NodeView) -> Float[Tensor, " n"]:
        query = directions(view.query_states())
        return (directions(view.node_states(nodes)) * query[nodes.row.to(query.device)]).sum(-1)


def directions(states: Float[Tensor, "*n E"]) -> Float[Tensor, "*n E"]:
    """States (…, E) normalised to length 1, in float32, so that their dot products are cosines. The score "cosine" uses
    them too."""
    return normalize(states.float(), dim=-1)
