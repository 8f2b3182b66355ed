"""Resolves a model's name: a folder, a .gguf file, a bundled model, or a model of the Hugging Face hub.

Imports nothing slow, so that a wrong name is reported before any library is loaded.
"""

import importlib.util
from pathlib import Path

from .errors import UserError, clipped, refusal

MODELS = Path(__file__).parent.parent / "bundled"
BUNDLED = ("tiny", "base")


def bundled_model(name: str = "tiny") -> Path:
    """Folder of a bundled checkpoint: "tiny", the extended model, or "base", the model it was extended from.

    Raises:
        UserError: no model of that name.
    """
    folder = MODELS / name
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(f.name for f in MODELS.glob("*/") if (f / "config.json").is_file())) or "none"
        raise UserError(f"there is no bundled model {name!r}: use one of {there}.")
    return folder


def checkpoint(name: str | Path) -> str:
    """The name, folder or file that a model is loaded from: a folder, a bundled model's folder ("tiny", "base"), a .gguf
    file, or a hub id. A model's folder here comes before a bundled model of its name.

    Raises:
        UserError: there is no such folder or file, and the name can't be a hub id.
    """
    name = str(name)
    if name in BUNDLED:
        return name if hides_bundled(name) else str(bundled_model(name))
    if not name.strip():
        raise UserError("the model's name is empty: name a folder, a bundled model (tiny, base) or OWNER/NAME.")
    try:
        path = Path(name).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:
        # No such user's home, or a name that no file can have.
        raise UserError(f"{clipped(name)} can't be a model's folder: {refusal(error)}.") from None
    if is_gguf(name) and not path.is_dir():
        return str(gguf_file(name))
    if path.is_dir():
        return str(path)
    if path.is_file():
        raise UserError(f"{name} is a file: name a model's folder, or a .gguf file.")
    # A hub id is two names with a slash.
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name} does not exist or is not a folder: name a model's folder.")
    if "/" not in name:
        raise UserError(
            f"there is no folder {name} and no bundled model of that name (tiny, base): check the name. Models of the "
            "Hugging Face hub are named OWNER/NAME."
        )
    return name


def hides_bundled(name: str) -> bool:
    """Whether a folder here holds a model and has the name of a bundled one."""
    return name in BUNDLED and (Path(name) / "config.json").is_file()


def is_gguf(name: str) -> bool:
    """Whether a model's name is the name of a .gguf file."""
    return name.lower().endswith(".gguf")


def gguf_file(name: str) -> Path:
    """The path of the file.

    Raises:
        UserError: there is no such file, it is of another kind, or the library that reads it is not installed.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {name}: name a .gguf file.")
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise UserError(f"{clipped(name)} can't be read: {refusal(error)}.") from None
    if begins != b"GGUF":
        raise UserError(
            f"{name} is no GGUF file, or a damaged one: it does not begin with GGUF. Get it again, or name another."
        )
    if importlib.util.find_spec("gguf") is None:
        raise UserError("gguf is not installed: pip install 'sharedllm[gguf]' reads .gguf files.")
    return path
