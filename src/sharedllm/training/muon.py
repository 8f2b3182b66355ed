"""Muon (Jordan et al., 2024): momentum whose update of a matrix is made nearly orthogonal."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..utils.hardware import fast_bf16


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with rates as AdamW's. Its products are in bf16; on a CPU that has none in bf16 ours are in fp32, with the
    same state: emulated, they take three quarters of a training step of the bundled model.
    """

    def __init__(self, params: list[dict], weight_decay: float):
        super().__init__(params, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        if fast_bf16() or any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        momentum = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = orthogonal(
            gradient.lerp(momentum, group["momentum"]), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-0.2 * math.sqrt(max(parameter.shape)) * group["lr"])


def orthogonal(
    matrix: Float[Tensor, "m n"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "m n"]:
    """The matrix with singular values near 1, by Newton and Schulz's iteration in its own dtype."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
