"""The trained models that come with the package, and models by name wherever they are."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .errors import UserError

MODELS = Path(__file__).parent.parent / "bundled"


def bundled_model(name: str = "tiny") -> Path:
    """Folder of a bundled checkpoint: "tiny", the extended model, or "base", what it was extended from.

    Raises:
        UserError: no model of that name.
    """
    folder = MODELS / name
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(f.name for f in MODELS.glob("*/") if (f / "config.json").is_file())) or "none"
        raise UserError(f"there is no bundled model {name!r}: use one of {there}.")
    return folder


def checkpoint(name: str) -> str:
    """What transformers loads: the folder of a bundled model ("tiny", "base"), a folder, or a hub id.

    Raises:
        UserError: the name is a path, and there is no such folder.
    """
    if name in ("tiny", "base"):
        return str(bundled_model(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    # A hub id is one name, or two with a slash.
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name} does not exist or is no folder: name a model's folder.")
    return name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        UserError: it can't be loaded.
    """
    folder = checkpoint(name)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load the tokenizer {name}: {str(error).splitlines()[0]}") from None
