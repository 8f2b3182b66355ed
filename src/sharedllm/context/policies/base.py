"""Selection policies score every node. Of two siblings the one with the higher score is selected; ties go right."""

from typing import Protocol

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ..tree import Choose, Nodes
from . import POLICIES


class NodeView(Protocol):
    """The data that a policy may use. States are computed only on request, without gradients."""

    def node_states(self, nodes: Nodes) -> Float[Tensor, "n E"]:
        """(n, E) hidden state at the last token of each node after the first lower layer."""
        ...

    def query_states(self) -> Float[Tensor, "B E"]:
        """(B, E) hidden state at the last token of each text's query after the first upper layer."""
        ...


class SelectionPolicy(Protocol):
    """Scores nodes; `needs_query` says whether it needs a query."""

    name: str
    needs_query: bool

    def scores(self, nodes: Nodes, view: NodeView) -> Shaped[Tensor, " n"]:
        """(n,) how much each node deserves to stay fine; only comparisons within one text matter."""
        ...


def chooser(policy: SelectionPolicy, view: NodeView) -> Choose:
    """Turn a policy into the function that chooses between siblings while a tree grows."""

    def choose(left: Nodes, right: Nodes) -> Bool[Tensor, " n"]:
        scores = policy.scores(Nodes.cat([left, right]), view).cpu()
        return scores[len(left) :] >= scores[: len(left)]

    return choose


def get_policy(policy: str | SelectionPolicy) -> SelectionPolicy:
    """A policy by name; a policy object is returned as it is.

    Raises:
        UserError: no policy of that name; lists the known ones.
    """
    return POLICIES.find(policy) if isinstance(policy, str) else policy


def without_query(policy: str | SelectionPolicy) -> SelectionPolicy:
    """A policy for reading before anything is asked: the given one, or "right" if it needs a query."""
    found = get_policy(policy)
    return get_policy("right") if found.needs_query else found
