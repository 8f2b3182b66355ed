"""The schema of a memory file: the fields of its header, and tensors that match the header and each other.

Checksums find damage; this finds files that were written wrong, before anything relies on them.
"""

import torch
from torch import Tensor

from ..utils.fields import Kind, each, mapping, one_of, text, whole

DTYPES = ("float32", "bfloat16", "float16", "float64")
# Tensors that don't belong to a layer or head.
INTEGERS = {"mask": torch.bool, "token_ids": torch.int32} | dict.fromkeys(
    ("chunk", "position", "stride", "lengths"), torch.int64
)
SHA256 = text("[0-9a-f]{64}")
STORAGE = one_of("model", "int8")
CHUNK_SIZE = whole(1, 2**31)
LAYERS = whole(0, 10_000)
# For each text the documents read; callers of `save_memory` may give fewer or more fields.
SOURCES = each(each({"name": text(), "tokens": whole(0)}, optional=frozenset({"name", "tokens"})))
HEADER: dict[str, Kind] = {
    "fingerprint": text(),
    "tokenizer": text(),
    "library": text(),
    "storage": STORAGE,
    "dtype": one_of(*DTYPES, ""),  # none of a memory without layers
    "chunk_size": CHUNK_SIZE,
    "texts": whole(0, 2**31),
    "layers": LAYERS,
    "residuals": whole(0, 1),
    "encoder": text(),
    "sources": SOURCES,
    "checksums": mapping(SHA256),
    "checksum": SHA256,
}
# Old files have none, or only those of models with a sentence encoder have one.
OPTIONAL = frozenset({"residuals", "encoder"})
# The embedded sentences.
SENTENCES = "sentences"


def misshapen(header: dict, tensors: dict[str, Tensor]) -> str | None:
    """The first type or shape of a tensor that is wrong; None if all are right."""
    texts, mask = header["texts"], tensors["mask"]
    if mask.ndim != 2 or len(mask) != texts or len(header["sources"]) != texts:
        return f"mask has shape {tuple(mask.shape)} for {texts} texts"
    first = tensors["keys.0"] if "keys.0" in tensors else torch.zeros(texts, 1, mask.shape[1], 1)
    if header["storage"] == "model" and not first.is_floating_point():
        return f"keys.0 has dtype {first.dtype}, not a floating point one"
    if header["storage"] != "model" and (first.dtype != torch.int8 or header["dtype"] not in DTYPES):
        return f"keys.0 has dtype {first.dtype} for storage {header['storage']!r}"
    for name, tensor in tensors.items():
        if name == SENTENCES:
            if tensor.dtype != torch.float16 or tensor.ndim != 2:
                return f"{name} has dtype {tensor.dtype} and shape {tuple(tensor.shape)}"
            continue
        dtype = torch.float32 if name.endswith(".scale") else INTEGERS.get(name, first.dtype)
        if tensor.dtype != dtype:
            return f"{name} has dtype {tensor.dtype}, not {dtype}"
        if name == "lengths":
            fits = tensor.shape == (texts,)
        elif name == "token_ids":
            fits = tensor.ndim == 2 and len(tensor) == texts
        elif name in INTEGERS:
            fits = tensor.shape == mask.shape
        elif name.endswith(".scale"):
            fits = tensor.shape == tensors[name.removesuffix(".scale")].shape[:3]
        else:
            twin = tensors[name.replace("values", "keys")]  # a residual stream is its own twin
            fits = tensor.ndim == 4 and tensor.shape == twin.shape and tensor.shape[::2] == mask.shape
        if not fits:
            return f"{name} has shape {tuple(tensor.shape)}, mask {tuple(mask.shape)}"
    lengths, columns = tensors["lengths"], tensors["token_ids"].shape[1]
    if ((lengths < 0) | (lengths > columns)).any():
        return f"lengths={lengths.tolist()} do not match token_ids of {columns} columns"
    return None


def impossible(header: dict, tensors: dict[str, Tensor]) -> str | None:
    """The first impossible position of kept tokens, for any text; None if all are possible."""
    mask, position, chunk, stride = (tensors[name] for name in ("mask", "position", "chunk", "stride"))
    if (tensors["token_ids"] < 0).any():
        return "token_ids are below 0"
    after = torch.arange(mask.shape[1]) >= mask.sum(1, keepdim=True)
    if (mask & after).any():
        return "mask has padding before kept tokens"
    if (mask & ((position < 0) | (position >= tensors["lengths"][:, None]))).any():
        return "position is outside the text"
    if (mask & (chunk != position // header["chunk_size"])).any():
        return "chunk and position contradict each other"
    if (mask & (stride < 1)).any():
        return "stride is below 1"
    if (mask[:, 1:] & (position.diff(dim=1) <= 0)).any():
        return "position does not ascend"
    return None
