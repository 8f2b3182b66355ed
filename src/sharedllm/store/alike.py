"""Whether two memories can be merged: only those that one model made in one way can."""

from pathlib import Path

from ..utils.errors import UserError
from .manifest import Manifest

_MODEL = "the other's model, `sharedllm read FILES -o NEW --model MODEL`"
# Field of a manifest, how two of them differ, and with what one of them is to be read again.
_FIELDS = (
    ("fingerprint", "were made by different models", _MODEL),
    ("tokenizer", "were made with different tokenizers", _MODEL),
    ("chunk_size", "have chunks of different sizes", _MODEL),
    ("pairs", "keep different layers", _MODEL),
    ("complete", "differ: one holds every token, the other a part", "`sharedllm read FILES -o NEW --keep-all`"),
    ("storage", "are stored in different formats", "the other's, `sharedllm read FILES -o NEW --storage {}`"),
)


def check_alike(folder: Path, ours: Manifest, other: Path, theirs: Manifest) -> None:
    """
    Raises:
        UserError: two memories can't be merged.
    """
    for name, differ, fix in _FIELDS:
        if getattr(ours, name) != getattr(theirs, name):
            again = fix.format(ours.storage)
            raise UserError(f"{folder} and {other} {differ}: read the texts of one of them again with {again}.")
