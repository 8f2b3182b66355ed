"""What the import hook of jaxtyping checks annotations with in tests: those that say shapes, by beartype.

Everything else of a signature is pyright's. Protocols could only be checked by looking at every attribute, which in a store
reads it from disk; and a test may pass something simpler in place of a model.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checking the shapes in its annotations at every call."""
    hints = {name: hint for name, hint in function.__annotations__.items() if _says_shapes(hint)}
    if not hints:
        return function
    function.__annotations__ = hints
    return beartype(function)


def _says_shapes(hint: Any) -> bool:
    """Whether tensors are in it, and no protocols."""
    parts = list(_parts(hint))
    arrays = [part for part in parts if inspect.isclass(part) and issubclass(part, AbstractArray)]
    return bool(arrays) and not any(getattr(part, "_is_protocol", False) for part in parts)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in get_args(hint):
        yield from _parts(inner)


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the checks away for one test: torch.compile can't trace through them."""
    for module in [m for name, m in sys.modules.items() if name.startswith("sharedllm.")]:
        classes = [member for member in vars(module).values() if inspect.isclass(member)]
        for holder in (module, *(c for c in classes if c.__module__ == module.__name__)):
            for name, member in list(vars(holder).items()):
                if inspect.isfunction(member) and "jaxtyping" in member.__code__.co_filename:
                    monkeypatch.setattr(holder, name, inspect.getattr_static(member, "__wrapped__"))
