"""Units that the lower model reads together, after a prefix that is read once, get the states that each has alone."""

import pytest
import torch
from combined import combined
from helpers import tiny_base, tiny_shared
from test_family_parity import CASES, OFTEN

from sharedllm.context.tree import Nodes

PREFIX, DEPTH = [5, 3, 9], 2
# Some differ so little that they are read together, padded; of the last ones not every token is sampled.
LENGTHS, SAMPLED = [60, 59, 58, 30, 60, 8, 40, 40], [60, 59, 58, 30, 60, 0, 10, 10]


def units_of() -> tuple[Nodes, torch.Tensor, torch.Tensor]:
    """Units of one text, one after the other, the unit of each sampled token, and its position."""
    lengths, counts = torch.tensor(LENGTHS), torch.tensor(SAMPLED)
    starts, zeros = torch.cumsum(lengths, 0) - lengths, torch.zeros_like(lengths)
    unit = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    position = torch.cat(
        [torch.arange(end - n, end) for end, n in zip((starts + lengths).tolist(), SAMPLED, strict=True)]
    )
    return Nodes(zeros, zeros, starts, lengths, zeros), unit, position


@pytest.mark.parametrize(("case", "prefix"), combined(CASES, (PREFIX, None), fast=OFTEN.__contains__), ids=str)
def test_units_have_the_states_that_the_base_gives_them(case, prefix):
    """In values and gradients: the base runs over the prefix and one unit at a time."""
    family, settings = case
    base = tiny_base(family, dtype=torch.float64, max_position_embeddings=256, **settings)
    model = tiny_shared(family, base=base, lower_layers=3, prefix=prefix)
    lower, embedding = model.model.lower(), model.get_input_embeddings().weight
    (units, unit, position), read = units_of(), []
    ids = torch.randint(0, base.config.vocab_size, (1, sum(LENGTHS)))
    got = lower.encode(ids, units, unit, position, DEPTH, list, progress=read.append)
    assert sum(read) == sum(length for length, sampled in zip(LENGTHS, SAMPLED, strict=True) if sampled)
    alone = []
    for start, length, sampled in zip(units.start.tolist(), LENGTHS, SAMPLED, strict=True):
        whole = torch.cat([torch.tensor([prefix or []], dtype=torch.long), ids[:, start : start + length]], 1)
        states = base(whole, output_hidden_states=True, use_cache=False).hidden_states[: DEPTH + 1]
        alone.append([state[0, whole.shape[1] - sampled :] for state in states])
    expected = [torch.cat(states) for states in zip(*alone, strict=True)]
    gradients = []
    for states in (got, expected):
        (gradient,) = torch.autograd.grad(sum((s * torch.linspace(-1, 1, s.shape[1])).sum() for s in states), embedding)
        gradients.append(gradient)
    for mine, theirs in zip([*got, gradients[0]], [*expected, gradients[1]], strict=True):
        # Norms are computed in single precision.
        assert (mine - theirs).detach().abs().max() <= 1e-5 * theirs.detach().abs().max()
