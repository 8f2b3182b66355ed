"""JSON that others wrote, of which no value is lost: Python's parser alone takes the last of a key that an object repeats."""

import json
from typing import Any

from .errors import shown


class Repeated(ValueError):
    """A JSON object has a key twice."""

    def __init__(self, key: str):
        super().__init__(f"{shown(key)} is there twice")
        self.key = key


def parse_json(text: str | bytes) -> Any:
    """
    Raises:
        Repeated: an object has a key twice. ValueError: it is not JSON. RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Repeated(key)
        found[key] = value
    return found
