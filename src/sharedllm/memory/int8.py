"""Keys and values in 8 bits: on disk, and in matrix products without conversion, which halves the bytes that a decoding
step reads.

The D numbers of a token's head share one float32 scale, so that the largest becomes ±127. Products use PyTorch's int8
kernel where it applies (a CPU, multiples of 16); elsewhere the numbers are converted back first.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn.functional import pad

# The kernel's inner dimension has to be a multiple of this.
_STEP = 16
# Most numbers to round at once, in float32.
_NUMBERS = 2**22


def quantised(tensor: Float[Tensor, "*rows D"]) -> tuple[Int8[Tensor, "*rows D"], Float[Tensor, " *rows"]]:
    """(…, D) → int8 (…, D) and its float32 scale (…): the largest of each D numbers becomes ±127."""
    codes = torch.empty(tensor.shape, dtype=torch.int8, device=tensor.device)
    scale = torch.empty(tensor.shape[:-1], dtype=torch.float32, device=tensor.device)
    shape, step = (scale.numel(), tensor.shape[-1]), max(1, _NUMBERS // tensor.shape[-1])
    parts = (t.split(step) for t in (tensor.reshape(shape), codes.view(shape), scale.view(-1, 1)))
    for some, some_codes, some_scale in zip(*parts, strict=True):
        exact = some.float()
        some_scale[:] = exact.abs().amax(-1, keepdim=True) / 127
        some_codes[:] = (exact / some_scale.clamp(min=1e-30)).round()
    return codes, scale


def dequantised(
    tensor: Int8[Tensor, "*rows D"], scale: Float[Tensor, " *rows"], dtype: torch.dtype
) -> Float[Tensor, "*rows D"]:
    return (tensor.float() * scale[..., None]).to(dtype)


@dataclass(frozen=True)
class _Int8:
    """codes: 8-bit integers. scale: (X, G, S), their factors."""

    codes: Int8[Tensor, "X G _ _"]
    scale: Float[Tensor, "X G S"]


class Int8Keys(_Int8):
    """codes (X, G, S, D)."""

    @classmethod
    def of(cls, keys: Float[Tensor, "X G S D"]) -> "Int8Keys":
        codes, scale = quantised(keys)
        return cls(codes, scale.to(keys.dtype))

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def scores(self, queries: Float[Tensor, "X G L D"]) -> Float[Tensor, "X G L S"]:
        """queries · keys: (X, G, L, D) → (X, G, L, S)."""
        return _products(queries, self.codes, self.scale)

    def whole(self) -> Float[Tensor, "X G S D"]:
        return dequantised(self.codes, self.scale, self.scale.dtype)


class Int8Values(_Int8):
    """codes (X, G, D, S'), with the tokens last because they are summed over; S' is a multiple of 16."""

    @classmethod
    def of(cls, values: Float[Tensor, "X G S D"]) -> "Int8Values":
        codes, scale = quantised(values)
        return cls(pad(codes, (0, 0, 0, -codes.shape[2] % _STEP)).transpose(2, 3).contiguous(), scale.to(values.dtype))

    def sums(self, weights: Float[Tensor, "X G L S"]) -> Float[Tensor, "X G L D"]:
        """weights · values: (X, G, L, S) → (X, G, L, D)."""
        scaled, missing = weights * self.scale[:, :, None], self.codes.shape[3] - weights.shape[3]
        return _products(pad(scaled, (0, missing)) if missing else scaled, self.codes, None)

    def whole(self) -> Float[Tensor, "X G S D"]:
        codes = self.codes[..., : self.scale.shape[2]].transpose(2, 3)
        return dequantised(codes, self.scale, self.scale.dtype)


def _products(
    left: Float[Tensor, "X G L K"], codes: Int8[Tensor, "X G N K"], scale: Float[Tensor, "X G N"] | None
) -> Float[Tensor, "X G L N"]:
    """(X, G, L, K) times codes (X, G, N, K) with a scale (X, G, N) for each row → (X, G, L, N)."""
    if left.device.type != "cpu" or left.shape[3] % _STEP or left.requires_grad:
        product = left @ codes.transpose(2, 3).to(left.dtype)
        return product if scale is None else product * scale[:, :, None]
    ones = left.new_ones(codes.shape[2])
    out = left.new_empty(*left.shape[:3], codes.shape[2])
    for text in range(len(left)):
        for head in range(left.shape[1]):
            by = ones if scale is None else scale[text, head]
            some, many = left[text, head].contiguous(), codes[text, head]
            out[text, head] = torch.ops.aten._weight_int8pack_mm(some, many, by)
    return out
