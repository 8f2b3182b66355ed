"""The extras of the package: what each adds, and the libraries that it installs.

`pyproject.toml` names the same libraries with versions; a test compares the two.
"""

import importlib.util
from dataclasses import dataclass

from .errors import UserError


@dataclass(frozen=True)
class Extra:
    """about: what it adds. modules: the libraries that it installs, as they are imported."""

    about: str
    modules: tuple[str, ...]


EXTRAS = {
    "documents": Extra(
        "PDF, DOCX, spreadsheets, old encodings, .zst",
        ("chardet", "mammoth", "pypdfium2", "python_calamine", "zstandard"),
    ),
    "serve": Extra("sharedllm serve", ("fastapi", "llguidance", "prometheus_client", "uvicorn")),
    "ray": Extra("read-corpus with many workers, serve --ray", ("ray",)),
    "cloud": Extra("memories in s3://", ("s3fs",)),
    "plot": Extra("figures", ("matplotlib",)),
    "gguf": Extra("models in .gguf files", ("gguf",)),
    "train": Extra("training, data sets", ("accelerate", "datasets", "peft", "tensorboard", "zstandard")),
    "eval": Extra("lm-evaluation-harness", ("lm_eval",)),
    "langchain": Extra("a retriever for LangChain", ("langchain_core",)),
    "llama-index": Extra("a retriever for LlamaIndex", ("llama_index.core",)),
}


class MissingExtra(UserError, ImportError):
    """A library that an extra installs is not installed. An `ImportError` too, for code that tries an import."""


def missing(extra: str, module: str) -> MissingExtra:
    """The error for a library that could not be imported."""
    return MissingExtra(f"{module} is not installed: {command(extra)}.")


def command(extra: str) -> str:
    """What installs an extra."""
    return f"pip install 'sharedllm[{extra}]'"


def absent(extra: str) -> list[str]:
    """The libraries of an extra that are not installed. Nothing is imported, except packages around the library."""
    return [module for module in EXTRAS[extra].modules if not _found(module)]


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of the package around it
        return False
