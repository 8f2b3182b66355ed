"""Muon without products in bf16 does what torch's does."""

import pytest
import torch

from sharedllm.training import muon
from sharedllm.training.muon import Muon, orthogonal


def trained(optimizer, steps=5):
    """Weights after some steps towards a fixed matrix."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in [(12, 40), (40, 12), (16, 16)]]
    goals = [torch.randn_like(weight) for weight in weights]
    made = optimizer([{"params": weights[:2], "lr": 0.03}, {"params": weights[2:], "lr": 0.01}])
    for _ in range(steps):
        made.zero_grad()
        sum(((w - g) ** 2).sum() for w, g in zip(weights, goals, strict=True)).backward()
        made.step()
    return weights, made.state_dict()


def test_in_fp32_it_is_torchs_but_for_rounding(monkeypatch):
    monkeypatch.setattr(muon, "fast_bf16", lambda: False)
    ours, state = trained(lambda groups: Muon(groups, 0.1))
    theirs, known = trained(lambda groups: torch.optim.Muon(groups, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    start, _ = trained(lambda groups: Muon(groups, 0.1), steps=0)
    for one, other, first in zip(ours, theirs, start, strict=True):
        assert (one - other).norm() < 0.02 * (other - first).norm()
    # So a run goes on from its checkpoint on another processor.
    assert state["param_groups"] == known["param_groups"] and state["state"].keys() == known["state"].keys()
    torch.testing.assert_close(
        state["state"][0]["momentum_buffer"], known["state"][0]["momentum_buffer"], rtol=0.05, atol=0.05
    )


def test_where_there_are_products_in_bf16_it_is_torchs(monkeypatch):
    monkeypatch.setattr(muon, "fast_bf16", lambda: True)
    ours, _ = trained(lambda groups: Muon(groups, 0.1))
    theirs, _ = trained(lambda groups: torch.optim.Muon(groups, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shape", [(8, 30), (30, 8)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape), (3.4445, -4.7750, 2.0315), 5, 1e-7))
    assert values.min() > 0.5 and values.max() < 1.5
