"""The shapes that annotations say, checked in tests by jaxtyping and beartype: in calls with shapes that were not checked before.

Everything else of a signature is pyright's. Protocols could only be checked by looking at every attribute, which in a store
reads it from disk; and a test may pass something simpler in place of a model.
"""

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor


def check_shapes(modules: list[str]) -> None:
    """Check the shapes in all annotations of these modules, which must not be imported yet."""
    # The hook puts this decorator at every function and class; its own checks every call, which took two fifths of the tests' time.
    jaxtyping.jaxtyped = lambda typechecker: once
    jaxtyping.install_import_hook(modules, "beartype.beartype")


def once(function: Any) -> Any:
    """The function, checked in calls whose arguments or result have shapes that none had before; dataclasses, in `__init__`."""
    if inspect.isclass(function):
        if "__dataclass_fields__" in vars(function):
            function.__init__ = once(function.__init__)
        return function
    hints = {name: hint for name, hint in function.__annotations__.items() if _says_shapes(hint)}
    if not hints:
        return function
    # What a check depends on: what has a shape, and numbers that a shape names, as in "{length}".
    names = list(inspect.signature(function).parameters)
    looked_at = [
        (i, n) for i, n in enumerate(names) if n in hints or any(f"{{{n}}}" in repr(h) for h in hints.values())
    ]
    result_of = _look if "return" in hints else lambda result: None
    returned, seen = threading.local(), {}

    @functools.wraps(function)
    def run_unless_it_has_run(*args: Any, **kwargs: Any) -> Any:
        return vars(returned).pop("result") if vars(returned) else function(*args, **kwargs)

    checking = jaxtyped(run_unless_it_has_run, typechecker=_typechecker)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        count = len(args)
        given = tuple([_look(args[i] if i < count else kwargs.get(name, ...)) for i, name in looked_at])
        if given not in seen:
            result = checking(*args, **kwargs)
            seen.setdefault(given, set()).add(result_of(result))
            return result
        result = function(*args, **kwargs)
        if (look := result_of(result)) not in seen[given]:
            returned.result = result
            checking(*args, **kwargs)
            seen[given].add(look)
        return result

    return call


def _look(value: Any) -> Any:
    """All that a check depends on."""
    kind = type(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return value.shape, value.dtype
    if isinstance(value, tuple) or (kind is list and value and type(value[0]) is not int):
        return kind, *map(_look, value)
    return value if isinstance(value, int) else kind


def _typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
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
                if inspect.isfunction(member) and member.__code__.co_filename == __file__:
                    monkeypatch.setattr(holder, name, inspect.getattr_static(member, "__wrapped__"))
