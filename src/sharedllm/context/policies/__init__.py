"""Selection policies: which child of a node stays fine. One policy a file, all behind `SelectionPolicy`."""

from .base import NodeView, SelectionPolicy
from .right import Right
from .similarity import Similarity

POLICIES: dict[str, SelectionPolicy] = {policy.name: policy for policy in (Right(), Similarity())}


def get_policy(policy: str | SelectionPolicy) -> SelectionPolicy:
    """A policy by name; an object that is one already is returned as it is.

    Raises:
        ValueError: no policy of that name; lists those there are.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"selection={policy!r} is not known: use one of {', '.join(sorted(POLICIES))}.")
    return POLICIES[policy]


def without_query(policy: str | SelectionPolicy) -> SelectionPolicy:
    """A policy for reading before anything is asked: the same, or "right" where that needs a query."""
    found = get_policy(policy)
    return POLICIES["right"] if found.needs_query else found


__all__ = ["POLICIES", "NodeView", "Right", "SelectionPolicy", "Similarity", "get_policy", "without_query"]
