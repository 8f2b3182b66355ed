"""A schema of the fields of a JSON file, as a table; an invalid value is reported before anything uses it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import shown

# The largest integer that every JSON reader represents exactly.
MOST = 2**53


@dataclass(frozen=True)
class Kind:
    """what: description for messages, "a whole number from 1". misfit: value → description of what is wrong, or None."""

    what: str
    misfit: Callable[[Any], str | None]


def _kind(what: str, fits: Callable[[Any], bool]) -> Kind:
    return Kind(what, lambda value: None if fits(value) else f"={shown(value)} is not {what}")


def whole(least: int, most: int = MOST) -> Kind:
    """A whole number; true and false don't count."""
    return _kind(f"a whole number from {least} to {most}", lambda v: type(v) is int and least <= v <= most)


def text(pattern: str | None = None) -> Kind:
    """A text that fully matches a pattern."""
    compiled = re.compile(pattern) if pattern else None
    what = f"a text of the form {pattern}" if pattern else "a text"
    return _kind(what, lambda v: isinstance(v, str) and (compiled is None or compiled.fullmatch(v) is not None))


def one_of(*values: str) -> Kind:
    return _kind(f"one of {', '.join(map(repr, values))}", lambda v: isinstance(v, str) and v in values)


TRUTH = _kind("true or false", lambda v: isinstance(v, bool))


def each(kind: Kind | Mapping[str, Kind], least: int = 0, optional: frozenset[str] = frozenset()) -> Kind:
    """A list of at least so many values, all of one kind, or of JSON objects with the same fields."""
    what = f"a list of {least} or more" if least else "a list"

    def misfit(value: Any) -> str | None:
        if not isinstance(value, list) or len(value) < least:
            return f"={shown(value)} is not {what}"
        for i, entry in enumerate(value):
            wrong = kind.misfit(entry) if isinstance(kind, Kind) else _dotted(misfit_of(entry, kind, optional))
            if wrong is not None:
                return f"[{i}]{wrong}"
        return None

    return Kind(what, misfit)


def record(fields: Mapping[str, Kind]) -> Kind:
    """A JSON object with these fields, or null."""

    def misfit(value: Any) -> str | None:
        return None if value is None else _dotted(misfit_of(value, fields))

    return Kind("a JSON object or null", misfit)


def pair(first: Kind, second: Kind) -> Kind:
    """A list of two values of these kinds."""

    def misfit(value: Any) -> str | None:
        if not isinstance(value, list) or len(value) != 2:
            return f"={shown(value)} is not a list of two"
        return first.misfit(value[0]) or second.misfit(value[1])

    return Kind("a list of two", misfit)


def mapping(kind: Kind) -> Kind:
    """A JSON object with any names, whose values are all of one kind."""

    def misfit(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"={shown(value)} is not a JSON object"
        return next((f".{n}{wrong}" for n, v in value.items() if (wrong := kind.misfit(v)) is not None), None)

    return Kind("a JSON object", misfit)


def misfit_of(value: Any, fields: Mapping[str, Kind], optional: frozenset[str] = frozenset()) -> str | None:
    """The first missing or invalid field, as "tokens=-1 is not a whole number from …"; None if all are valid.

    Unknown fields are ignored.
    """
    if not isinstance(value, dict):
        return f"={shown(value)} is not a JSON object"
    for name, kind in fields.items():
        if name not in value:
            if name not in optional:
                return f"{name} is missing"
        elif (wrong := kind.misfit(value[name])) is not None:
            return f"{name}{wrong}"
    return None


def _dotted(wrong: str | None) -> str | None:
    return wrong if wrong is None or wrong.startswith("=") else f".{wrong}"
