"""What a selection policy is: a score for every node. Of two siblings the better one is selected, ties go right."""

from typing import Protocol

from torch import Tensor

from ..tree import Choose, Nodes
from . import POLICIES


class NodeView(Protocol):
    """What a policy may look at. States are read only when asked for, without gradients."""

    def node_states(self, nodes: Nodes) -> Tensor:
        """(n, E) hidden state at the last token of each node after the first lower layer."""
        ...

    def query_states(self) -> Tensor:
        """(B, E) hidden state at the last token of each text's query after the first upper layer."""
        ...


class SelectionPolicy(Protocol):
    """Scores nodes; `needs_query` says whether there has to be a query."""

    name: str
    needs_query: bool

    def scores(self, nodes: Nodes, view: NodeView) -> Tensor:
        """(n,) how much each node deserves to stay fine; only comparisons within one text matter."""
        ...


def chooser(policy: SelectionPolicy, view: NodeView) -> Choose:
    """The policy as the choice between siblings that growing a tree asks for."""

    def choose(left: Nodes, right: Nodes) -> Tensor:
        scores = policy.scores(Nodes.cat([left, right]), view).cpu()
        return scores[len(left) :] >= scores[: len(left)]

    return choose


def get_policy(policy: str | SelectionPolicy) -> SelectionPolicy:
    """A policy by name; an object that is one already is returned as it is.

    Raises:
        UserError: no policy of that name; lists those there are.
    """
    return POLICIES.find(policy) if isinstance(policy, str) else policy


def without_query(policy: str | SelectionPolicy) -> SelectionPolicy:
    """A policy for reading before anything is asked: the same, or "right" where that needs a query."""
    found = get_policy(policy)
    return get_policy("right") if found.needs_query else found
