"""What questions had read deeper of a block, kept beside it, so that no later process reads it again.

    notes.memory/
      meanings/1f0c….memory    of the block of that name: its tokens' states after the layers that compare meanings

Such a file is never needed: one that is missing, damaged, or of other layers is read anew from the block and replaced. So
whoever asks may write it, and where that can't be done it is left out.
"""

import json
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..memory.file import checksum
from ..memory.int8 import dequantised, quantised
from ..utils.files import put
from ..utils.scratch import scratch

FOLDER = "meanings"
_FORMAT = "sharedllm.meanings"


def meanings_bytes(store: Path) -> int:
    """How many bytes are kept in a store's folder, 0 for anything else."""
    total = 0
    for path in filter(own_file, (store / FOLDER).glob("*.memory")):
        with suppress(FileNotFoundError):  # a writer removed it meanwhile
            total += path.stat().st_size
    return total


def own_file(path: Path) -> bool:
    """Whether it is a file of the store's own folder, and no link to somewhere else."""
    return path.is_file() and not path.is_symlink() and not path.parent.is_symlink()


class BlockMeanings:
    """The states of one block's tokens, in 8 bits."""

    def __init__(self, store: Path, name: str, block: str, tokens: int):
        """
        Args:
            store: its folder. name: the block's file. block: the checksum of its header. tokens: how many it holds.
        """
        self._beside, self._path = store / "blocks" / name, store / FOLDER / name
        self._block, self._tokens = block, tokens

    def load(self, layers: str) -> Float[Tensor, "T E"] | None:
        """The states of all tokens; None if they are not kept, or can't be read.

        Args:
            layers: identifies the layers that read them.
        """
        if not own_file(self._path):
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                said = json.loads((file.metadata() or {}).get("sharedllm", "{}"))
                codes, scale = file.get_tensor("states"), file.get_tensor("scale")
        except (SafetensorError, OSError, ValueError, RecursionError):
            return None
        fits = codes.dtype == torch.int8 and codes.ndim == 2 and codes.shape[1] == self._tokens
        if not fits or scale.dtype != torch.float32 or scale.shape != codes.shape[:1]:
            return None
        dtype = getattr(torch, str(said.get("dtype")), None) if isinstance(said, dict) else None
        if not isinstance(dtype, torch.dtype) or said != self._header(layers, dtype, codes, scale):
            return None
        return dequantised(codes, scale, dtype).T.contiguous()

    def save(self, layers: str, states: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Keep the states of all tokens, and return them as `load` will."""
        # A scale for each coordinate, not for each token: a few coordinates are much larger than all others.
        codes, scale = quantised(states.T)
        header = json.dumps(self._header(layers, states.dtype, codes, scale))
        folder = self._path.parent
        with suppress(OSError, SafetensorError):
            folder.mkdir(exist_ok=True)
            if not folder.is_symlink():
                with scratch(folder) as temporary:
                    file = temporary / "states"
                    save_file({"states": codes, "scale": scale}, file, metadata={"sharedllm": header})
                    file.chmod(self._beside.stat().st_mode & 0o777)  # save_file lets only the owner read
                    put(file, self._path)
        return dequantised(codes, scale, states.dtype).T.contiguous()

    def _header(self, layers: str, dtype: torch.dtype, codes: Tensor, scale: Tensor) -> dict[str, str | int]:
        return {
            "format": _FORMAT,
            "version": 1,
            "block": self._block,
            "layers": layers,
            "dtype": str(dtype).removeprefix("torch."),
            "states": checksum(codes),
            "scale": checksum(scale),
        }
