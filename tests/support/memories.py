"""Random memories built by hand, for tests that need no model."""

import torch
from torch import Tensor

from sharedllm import ContextMemory

CHUNK = 8


def random_memory(
    lengths: list[int], seed: int = 0, dtype: torch.dtype = torch.float32, pairs: int = 2, fingerprint: str = "abc"
) -> ContextMemory:
    """Texts of `lengths` tokens in chunks of 8, of which about half are kept; no key, value or token id is 0.

    Every text keeps its last token, so only a text without tokens keeps none.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = [torch.rand(n, generator=generator) < 0.5 for n in lengths]
    for tokens in kept:
        tokens[-1:] = True
    positions = [tokens.nonzero()[:, 0] for tokens in kept]
    mask = _rows([torch.ones(len(p)) for p in positions], torch.bool)

    def heads() -> Tensor:
        draw = torch.rand(len(lengths), 2, mask.shape[1], 4, generator=generator) + 0.5
        return (draw * mask[:, None, :, None]).to(dtype)

    def draw(low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    return ContextMemory(
        keys=tuple(heads() for _ in range(pairs)),
        values=tuple(heads() for _ in range(pairs)),
        mask=mask,
        chunk=_rows([p // CHUNK for p in positions]),
        position=_rows(positions),
        stride=_rows([draw(1, 17, len(p)) for p in positions]),
        token_ids=_rows([draw(1, 1000, n) for n in lengths], torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.long),
        chunk_size=CHUNK,
        sources=tuple(({"name": f"text {i} – ä", "tokens": n},) for i, n in enumerate(lengths)),
        fingerprint=fingerprint,
    )


def texts(memory: ContextMemory) -> list[dict[str, list]]:
    """Each text without its padding, as plain lists, which must not depend on the rest of the batch."""
    out = []
    for row in range(len(memory)):
        mask = memory.mask[row]
        text = {name: getattr(memory, name)[row, mask].tolist() for name in ("chunk", "position", "stride")}
        text |= {f"keys.{i}": t[row][:, mask].tolist() for i, t in enumerate(memory.keys)}
        text |= {f"values.{i}": t[row][:, mask].tolist() for i, t in enumerate(memory.values)}
        text["token_ids"] = memory.token_ids[row, : int(memory.lengths[row])].tolist()
        out.append(text)
    return out


def assert_padding_is_zero(memory: ContextMemory) -> None:
    """Kept tokens come first, nothing is wider than the longest text, and padding is zero everywhere."""
    columns = torch.arange(memory.mask.shape[1])
    assert torch.equal(memory.mask, columns < memory.kept[:, None])
    assert memory.mask.shape[1] == max(memory.kept.tolist(), default=0)
    assert memory.token_ids.shape[1] == max(memory.lengths.tolist(), default=0)
    for name in ("chunk", "position", "stride"):
        assert not getattr(memory, name)[~memory.mask].any()
    for tensor in memory.keys + memory.values:
        assert not tensor.transpose(1, 2)[~memory.mask].any()
    behind = torch.arange(memory.token_ids.shape[1]) >= memory.lengths[:, None]
    assert not memory.token_ids[behind].any()


def assert_same(ours: ContextMemory, theirs: ContextMemory) -> None:
    """Equal to the bit, with equal dtypes, and equal in everything that is not a tensor."""
    assert ours.tensors().keys() == theirs.tensors().keys()
    for name, tensor in ours.tensors().items():
        other = theirs.tensors()[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(other.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    for name in ("chunk_size", "sources", "fingerprint"):
        assert getattr(ours, name) == getattr(theirs, name), name


def _rows(parts: list[Tensor], dtype: torch.dtype = torch.long) -> Tensor:
    """(B, longest) from B tensors (n,), padded with zeros at the end."""
    out = torch.zeros(len(parts), max((len(p) for p in parts), default=0), dtype=dtype)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out
