"""Selection policies: they score every node, the better of two siblings is split further, ties go right."""

import pytest
import torch
from helpers import random_texts, tiny_shared
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sharedllm.context.policies import POLICIES
from sharedllm.context.policies.base import chooser, get_policy
from sharedllm.context.policies.cosine import Cosine
from sharedllm.context.policies.right import Right
from sharedllm.context.tree import Nodes, chunks, preserved_nodes, split

CONTEXT = torch.tensor(random_texts([48, 48]))
QUERY = torch.tensor(random_texts([5, 5], 1))


class Constant:
    """Finds all nodes equally good."""

    name, needs_query = "constant", False

    def scores(self, nodes: Nodes, view) -> Tensor:
        return torch.zeros(len(nodes))


class Left:
    """Prefers nodes far from the running text."""

    name, needs_query = "left", False

    def scores(self, nodes: Nodes, view) -> Tensor:
        return -nodes.start


class Nearest:
    """Prefers nodes near one token of the text."""

    name, needs_query = "nearest", False

    def __init__(self, position: int):
        self.position = position

    def scores(self, nodes: Nodes, view) -> Tensor:
        return -(nodes.start + nodes.length / 2 - self.position).abs()


class FixedView:
    """States from a table: a node's depends on its start, a query's on its text."""

    def __init__(self, nodes: dict[int, list[float]], queries: list[list[float]]):
        self.nodes, self.queries = nodes, queries

    def node_states(self, nodes: Nodes) -> Tensor:
        return torch.tensor([self.nodes[int(start)] for start in nodes.start])

    def query_states(self) -> Tensor:
        return torch.tensor(self.queries)


def test_policies_by_name():
    assert set(POLICIES) == {"right", "cosine"}
    assert isinstance(get_policy("right"), Right) and isinstance(get_policy("cosine"), Cosine)
    assert {name: policy.needs_query for name, policy in POLICIES.items()} == {"right": False, "cosine": True}
    policy = Left()
    assert get_policy(policy) is policy
    with pytest.raises(ValueError, match="selection='best' is not known: use one of right, cosine"):
        get_policy("best")


@pytest.mark.parametrize(("policy", "goes_right"), [(Right(), True), (Constant(), True), (Left(), False)])
def test_choice_between_siblings(policy, goes_right):
    left, right = split(chunks(torch.tensor([48, 20]), 16))
    assert chooser(policy, None)(left, right).tolist() == [goes_right] * 5


def test_cosine_compares_each_text_with_its_own_query():
    """Both texts have equal nodes; their queries point to different halves. The norm of a state doesn't matter."""
    left, right = split(chunks(torch.tensor([16, 16, 16]), 16))
    view = FixedView({0: [9.0, 0.0], 8: [0.0, 1.0]}, [[1.0, 0.1], [0.1, 1.0], [1.0, 1.0]])
    assert chooser(Cosine(), view)(left, right).tolist() == [False, True, True]


def test_cosine_scores_are_cosines():
    nodes = chunks(torch.tensor([16]), 8)
    view = FixedView({0: [3.0, 4.0], 8: [-1.0, 0.0]}, [[1.0, 0.0]])
    assert Cosine().scores(nodes, view).tolist() == pytest.approx([0.6, -1.0])


@pytest.mark.parametrize("encoding", ["node", "chunk"])
def test_policy_objects(encoding):
    """A custom policy needs no registration; the parts that it prefers are kept densely."""
    model = tiny_shared("llama", encoding=encoding)
    right = model.read(CONTEXT)
    assert torch.equal(model.read(CONTEXT, selection=Constant()).position, right.position)
    left = model.read(CONTEXT, selection=Left())
    for memory, first_half_is_coarse in ((right, True), (left, False)):
        first_half = memory.position[0] % 16 < 8
        coarse = memory.stride[0][first_half if first_half_is_coarse else ~first_half]
        assert (coarse == 4).all()
    near = model.read(CONTEXT, selection=Nearest(21))
    assert near.position[0][(near.stride[0] == 1) & (near.chunk[0] == 1)].tolist() == [20, 21, 22, 23]


@pytest.mark.parametrize("encoding", ["node", "chunk"])
def test_cosine_in_a_model(encoding):
    """The first choice in each chunk follows the cosine of states after one layer, computed by the layer itself."""
    model = tiny_shared("llama", encoding=encoding)
    memory = model.read(CONTEXT, query_ids=QUERY, selection="cosine")
    upper = model.model.upper

    def last_state(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return upper(ids[None], output_hidden_states=True, use_cache=False).hidden_states[1][0, -1]

    seen = set()
    for row in range(2):
        query = last_state(QUERY[row])
        for chunk in range(3):
            start = 16 * chunk
            left = last_state(CONTEXT[row, start : start + 8])
            # With the encoding "chunk" a node's states have seen the earlier part of its chunk.
            right = last_state(CONTEXT[row, start + 8 * (encoding == "node") : start + 16])
            goes_right = bool(cosine_similarity(right, query, dim=0) >= cosine_similarity(left, query, dim=0))
            seen.add(goes_right)
            coarse = memory.position[row][(memory.chunk[row] == chunk) & (memory.stride[row] == 4)] - start
            assert coarse.tolist() == ([3, 7] if goes_right else [11, 15])
    assert seen == {True, False}


def test_ratios_follow_the_choice():
    """The preserved nodes cover each chunk, whatever the policy."""
    for policy in (Right(), Left(), Nearest(5)):
        nodes = preserved_nodes(chunks(torch.tensor([40]), 16), 3, chooser(policy, None))
        assert int(nodes.length.sum()) == 40
        assert (nodes.start[1:] == nodes.end[:-1]).all()
