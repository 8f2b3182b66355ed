"""With a query: what is more similar to it stays finer (paper, question answering and instructions)."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..tree import Nodes
from .base import NodeView


class Similarity:
    """Cosine between the hidden states at the last tokens of node and query, each after one layer of its model."""

    name = "similarity"
    needs_query = True

    def scores(self, nodes: Nodes, view: NodeView) -> Tensor:
        query = view.query_states()
        return cosine_similarity(view.node_states(nodes).float(), query[nodes.row.to(query.device)].float(), dim=-1)
