"""The models on this disk that can be used here: bundled ones, those in the cache of the Hugging Face hub, and folders."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..model.families import FAMILIES, REFUSED
from ..utils.errors import UserError
from ..utils.model_names import MODELS, gguf_file

# How far below a named folder models are looked for: MODELS/OWNER/NAME.
_DEPTH = 2
# What a broken file of JSON raises.
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Found:
    """A model on disk.

    name      as `--model` and `sharedllm extend` take it
    where     "bundled", "cache" or "folder"
    kind      "extended", a SharedLLM; "base", which can be extended; or "other"
    family    its base's `model_type`; "gguf" for a .gguf file
    about     how it was extended, or why it can't be used
    nbytes    of all its files
    path      its folder or file
    """

    name: str
    where: str
    kind: str
    family: str
    about: str
    nbytes: int
    path: str


def bundled() -> list[Found]:
    """The models that came with the package."""
    return [_described(path.name, "bundled", path) for path in _folders(MODELS, 1)]


def cached(cache: Path | None = None) -> list[Found]:
    """The models in the cache of the hub.

    Args:
        cache: its folder; default: the one that the environment names.
    """
    root = Path(constants.HF_HUB_CACHE) if cache is None else cache
    found = []
    for repository in sorted(root.glob("models--*")):
        name = repository.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = _snapshot(repository)
        if snapshot is not None:
            found += _models(name, "cache", snapshot)
    return found


def in_folder(folder: str) -> list[Found]:
    """The models in a folder: itself, or those in it and in its folders.

    Raises:
        UserError: there is no such folder, or it holds no model.
    """
    if not folder.strip():
        raise UserError("the folder's name is empty: name a model's folder, or one that holds some.")
    path = Path(folder).expanduser()
    if path.is_file() and path.suffix.lower() == ".gguf":
        return [_gguf(path, "folder")]
    if not path.is_dir():
        raise UserError(f"{folder} does not exist or is not a folder: name a model's folder, or one that holds some.")
    found = [model for below in _folders(path, _DEPTH) for model in _models(str(below), "folder", below)]
    found += [_gguf(file, "folder") for file in sorted(path.glob("*.gguf")) if not (path / "config.json").is_file()]
    if not found:
        raise UserError(f"{folder} holds no model: no config.json and no .gguf file in it or in its folders.")
    return found


def _folders(path: Path, depth: int) -> Iterator[Path]:
    """The folders of models: this one, or those below it."""
    if (path / "config.json").is_file():
        yield path
    elif depth:
        for below in sorted(path.iterdir()):
            if below.is_dir():
                yield from _folders(below, depth - 1)


def _models(name: str, where: str, folder: Path) -> list[Found]:
    """The model in a folder and, where it has no configuration, its .gguf files."""
    if (folder / "config.json").is_file():
        return [_described(name, where, folder)]
    return [_gguf(file, where) for file in sorted(folder.glob("*.gguf"))]


def _gguf(file: Path, where: str) -> Found:
    kind, about = "base", "sharedllm extend says whether its family is supported"
    try:
        gguf_file(str(file))
    except UserError as error:
        kind, about = "other", str(error)
    return Found(str(file), where, kind, "gguf", about, _size(file), str(file))


def _described(name: str, where: str, folder: Path) -> Found:
    family, kind, about = "?", "other", ""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = str(config.get("model_type", "?"))
        kind, about = _kind(config)
        if kind == "extended" and "text_config" not in config:
            kind, about = "other", "its config.json has no text_config, which describes its base"
        elif kind == "extended":
            family = str(config["text_config"].get("model_type", "?"))
    except _BROKEN as error:
        kind = "other"
        about = f"config.json can't be read: {type(error).__name__}"
    try:
        lacking = _lacking(folder) if kind != "other" else ""
    except _BROKEN as error:
        lacking = f"the list of its weights can't be read: {type(error).__name__}"
    if lacking:
        kind, about = "other", lacking
    return Found(name, where, kind, family, about, _size(folder), str(folder))


def _kind(config: dict[str, Any]) -> tuple[str, str]:
    """Its kind, and how it was extended or why it can't be."""
    family = config.get("model_type", "?")
    if family == "sharedllm":
        return "extended", f"injection={config.get('injection', 'cross')}, window {config.get('window', '?')}"
    if family in FAMILIES:
        return "base", ""
    return "other", REFUSED.get(family, "not a decoder that can be extended")


def _lacking(folder: Path) -> str:
    """What of its weights is not there; "" if they are whole."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        gone = [part for part in parts if not (folder / part).is_file()]
        if gone:
            return f"{len(gone)} of {len(parts)} files of weights are not here"
    else:
        parts = sorted(file.name for file in folder.glob("*.safetensors"))
        if not parts:
            return "its weights are not here as safetensors"
    hollow = [part for part in parts if not (folder / part).stat().st_size]
    return f"{hollow[0]} is empty: copy or fetch it again" if hollow else ""


def _snapshot(repository: Path) -> Path | None:
    """The folder of a cached model's newest version: that of its main branch, if it is here."""
    main = repository / "refs" / "main"
    if main.is_file() and (named := repository / "snapshots" / main.read_text(encoding="utf-8").strip()).is_dir():
        return named
    versions = [path for path in (repository / "snapshots").glob("*") if path.is_dir()]
    return max(versions, key=lambda path: path.stat().st_mtime, default=None)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as what they lead to."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
