"""Losses in pieces: the values and gradients of all logits at once, whatever the family does to its logits."""

import copy

import pytest
import torch
from combined import combined
from helpers import padded_rows, tiny_base, tiny_shared
from torch.nn.functional import cross_entropy, kl_div

from sharedllm.model import token_losses as pieces
from sharedllm.model.targets import IGNORE
from sharedllm.model.token_losses import Teacher, token_losses
from sharedllm.training.losses import RowLosses
from sharedllm.utils.hardware import count_operations

VOCABULARY = 101


def plainly(model, running, running_mask, labels, context, context_mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and rightness of each row from all logits, row by row."""
    memory = model.read(context, context_mask, gradients=True, fingerprint=False)
    logits = model(running, attention_mask=running_mask.long(), memory=memory, use_cache=False).logits
    losses, right = [], []
    for row in range(len(running)):
        targets = labels[row, 1:]
        some = (targets != IGNORE) & running_mask[row, :-1]
        values = cross_entropy(logits[row, :-1].float()[some], targets[some], reduction="sum")
        losses.append(values / some.sum().clamp(min=1))
        right.append(bool((logits[row, :-1][some].argmax(-1) == targets[some]).all()))
    return torch.stack(losses), torch.tensor(right)


@pytest.mark.parametrize(
    ("family", "dtype"),
    combined(["llama", "qwen2", "cohere", "gemma2", "granite", "phimoe"], [torch.float32, torch.bfloat16]),
    ids=str,
)
def test_rows_in_pieces_equal_all_logits_at_once(family, dtype, monkeypatch):
    """Scaled, divided and capped logits, and a head with a bias; pieces of three tokens."""
    monkeypatch.setattr(pieces, "MOST_ON_CPU", 3 * VOCABULARY)
    ours = tiny_shared(family, base=tiny_base(family, dtype=dtype))
    theirs = copy.deepcopy(ours)
    got = RowLosses(ours)(**padded_rows())
    expected, right = plainly(theirs, **padded_rows())
    tight = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.03}
    torch.testing.assert_close(got.loss, expected, **tight)
    assert got.right.tolist() == right.tolist() and got.right[2] and not got.right[0]
    assert got.loss[2] == 0
    got.loss.sum().backward()
    expected.sum().backward()
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is None:
            continue
        assert one.grad.isfinite().all(), name
        # In bf16 single small numbers differ more, so what is compared is their norm.
        off, size = (one.grad - two.grad).float().norm(), two.grad.float().norm()
        assert off <= (1e-4 if dtype == torch.float32 else 0.05) * size + 1e-6, name


@pytest.mark.parametrize("family", ["llama", "cohere", "gemma2", "phimoe"])
def test_a_frozen_head_sees_every_token_once(family, monkeypatch):
    """In values and gradients as if it trained, whatever the family does to its logits; rows have weights of their own."""
    monkeypatch.setattr(pieces, "MOST_ON_CPU", 3 * VOCABULARY)
    trained = tiny_shared(family)
    trained.lm_head.weight = torch.nn.Parameter(trained.lm_head.weight.detach().clone())
    frozen = copy.deepcopy(trained)
    frozen.lm_head.requires_grad_(False)
    calls = []
    frozen.lm_head.register_forward_hook(lambda *args: calls.append(args[2].shape[0]))
    weights = torch.arange(1.0, 5.0)
    results = [RowLosses(model)(**padded_rows()) for model in (frozen, trained)]
    tokens = sum(calls)
    torch.testing.assert_close(results[0].loss, results[1].loss)
    assert torch.equal(results[0].right, results[1].right)
    for result in results:
        (result.loss * weights).sum().backward()
    assert sum(calls) == tokens, "the backward pass computes no logits"
    compared = 0
    for (name, one), two in zip(frozen.named_parameters(), trained.parameters(), strict=True):
        if name.startswith("lm_head."):
            assert one.grad is None
            continue
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 20


def test_the_operations_of_a_frozen_head_are_counted():
    """One product forward and one backward."""
    states, weight = torch.zeros(7, 8, requires_grad=True), torch.zeros(8, VOCABULARY)
    count = count_operations(
        lambda: token_losses(lambda s: s @ weight, states, torch.arange(7), frozen=True).loss.sum().backward()
    )
    assert count == 2 * (2 * 7 * 8 * VOCABULARY)


def test_no_more_logits_than_asked_for():
    """Also in the backward pass; the head sees every token once forward and once backward."""
    seen = []

    def head(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        return states @ weight.T

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, 8, generator=generator, requires_grad=True)
    states = torch.randn(10, 8, generator=generator, requires_grad=True)
    targets = torch.arange(10)
    losses = token_losses(head, states, targets, most_logits=4 * VOCABULARY)
    losses.loss.sum().backward()
    assert seen[1:] == [4, 4, 2, 2, 4, 4] or sorted(seen[1:]) == [2, 2, 4, 4, 4, 4]
    with torch.no_grad():
        once = token_losses(head, states, targets)
    assert torch.equal(once.loss, losses.loss) or torch.allclose(once.loss, losses.loss)
    assert (once.divergence == 0).all()


def test_no_tokens_give_no_losses():
    weight = torch.ones(5, 3)
    losses = token_losses(
        lambda states: states @ weight.T, torch.zeros(0, 3, requires_grad=True), torch.zeros(0).long()
    )
    assert all(len(tensor) == 0 for tensor in losses)
    losses.loss.sum().backward()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_is_that_of_torch(temperature):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(9, 8, generator=generator, requires_grad=True)
    theirs = torch.randn(9, 4, generator=generator, requires_grad=True)
    weight, taught = torch.randn(VOCABULARY, 8, generator=generator), torch.randn(VOCABULARY, 4, generator=generator)
    teacher = Teacher(lambda states: states @ taught.T, theirs, temperature)
    got = token_losses(lambda s: s @ weight.T, states, torch.arange(9), teacher, most_logits=2 * VOCABULARY).divergence
    twin = states.detach().clone().requires_grad_()
    given, expected = ((s @ w.T / temperature).log_softmax(-1) for s, w in ((twin, weight), (theirs.detach(), taught)))
    plain = kl_div(given, expected, reduction="none", log_target=True).sum(-1) * temperature**2
    torch.testing.assert_close(got, plain)
    for value in (got, plain):
        value.sum().backward()
    torch.testing.assert_close(states.grad, twin.grad)
    assert theirs.grad is None, "nobody teaches the teacher"
