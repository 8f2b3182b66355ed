"""The trained models that come with the package."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def bundled_model(name: str = "tiny") -> Path:
    """Folder of a bundled checkpoint: "tiny", the extended model, or "base", what it was extended from.

    Raises:
        ValueError: no model of that name.
    """
    folder = MODELS / name
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(f.name for f in MODELS.glob("*/") if (f / "config.json").is_file())) or "none"
        raise ValueError(f"there is no bundled model {name!r}: use one of {there}.")
    return folder
