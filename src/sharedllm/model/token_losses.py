"""Losses of tokens under a large vocabulary: hidden states → head → losses, some tokens at a time.

The logits of a whole batch are the peak of memory in training: those of 4,096 tokens under a vocabulary of 152K take
2.5 GB in fp32, and their gradient takes as much again. Here only those of a piece exist; the backward pass computes them
again. `torch.nn.functional.linear_cross_entropy` has no capped or scaled logits, no predictions and no teacher.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

# Most logits at once: 64 MB in fp32 on a CPU. A GPU needs larger products.
MOST_LOGITS, MOST_ON_CPU = 2**26, 2**24

Head = Callable[[Tensor], Tensor]


class TokenLosses(NamedTuple):
    """Of n tokens, in fp32.

    loss        (n,) −log p(target), in nats
    divergence  (n,) KL(teacher ‖ model), in nats, 0 without a teacher
    right       (n,) bool: the target is the likeliest token
    """

    loss: Tensor
    divergence: Tensor
    right: Tensor


class Teacher(NamedTuple):
    """What the model should agree with.

    head         hidden states → logits, without gradients
    states       (n, E') its hidden states of the same n tokens
    temperature  divides the logits of both; the divergence is multiplied by its square, which keeps its gradients' size
    """

    head: Head
    states: Tensor
    temperature: float = 1.0


def token_losses(
    head: Head,
    states: Tensor,
    targets: Tensor,
    teacher: Teacher | None = None,
    most_logits: int | None = None,
    frozen: bool = False,
) -> TokenLosses:
    """The losses of n tokens.

    Args:
        head: hidden states (k, E) → logits (k, V). states: (n, E). targets: (n,) ids.
        most_logits: most logits held at once; default: 2²⁴ on a CPU and 2²⁶ elsewhere.
        frozen: nothing in the head trains. Without a teacher the gradient of the states is then made at once, instead of
            the logits again in the backward pass.
    """
    most = most_logits or (MOST_ON_CPU if states.device.type == "cpu" else MOST_LOGITS)
    # A head tells the size of its vocabulary only by its output.
    size = max(1, most // head(states[:0]).shape[-1])
    parts = []
    for start in range(0, max(len(states), 1), size):
        some = slice(start, start + size)
        taught = None if teacher is None else teacher._replace(states=teacher.states[some])
        if torch.is_grad_enabled() and frozen and taught is None:
            parts.append(_piece_at_once(head, states[some], targets[some]))
        elif torch.is_grad_enabled():
            # Nothing in it is random, so no state of random numbers has to be kept.
            given = (head, states[some], targets[some], taught)
            parts.append(checkpoint(_piece, *given, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_piece(head, states[some], targets[some], taught))
    return TokenLosses(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _piece(head: Head, states: Tensor, targets: Tensor, teacher: Teacher | None) -> tuple[Tensor, Tensor, Tensor]:
    logits = head(states).float()
    loss = cross_entropy(logits, targets, reduction="none")
    right = logits.detach().argmax(-1) == targets
    if teacher is None:
        return loss, torch.zeros_like(loss), right
    with torch.no_grad():
        expected = (teacher.head(teacher.states).float() / teacher.temperature).log_softmax(-1)
    given = (logits / teacher.temperature).log_softmax(-1)
    divergence = (expected.exp() * (expected - given)).sum(-1) * teacher.temperature**2
    return loss, divergence, right


def _piece_at_once(head: Head, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_piece` without a teacher, through whose loss the states get the gradient that is computed here.

    A token's loss depends on its own state only, so its gradient is that of the sum of all losses.
    """
    with torch.enable_grad():
        given = states.detach().requires_grad_()
        logits = head(given)
    with torch.no_grad():
        scores = logits.float()
        total, place = scores.logsumexp(-1, keepdim=True), targets[:, None]
        loss, right = (total - scores.gather(-1, place))[:, 0], scores.argmax(-1) == targets
        slope = (scores - total).exp_()
        slope.scatter_add_(-1, place, torch.full_like(total, -1.0))
        # Not `autograd.grad`, which what counts operations does not support.
        logits.backward(slope.to(logits.dtype))
        assert given.grad is not None
    # 0, with the gradient of the loss.
    carrier = (states.float() * given.grad.float()).sum(-1)
    return loss + (carrier - carrier.detach()), torch.zeros_like(loss), right
