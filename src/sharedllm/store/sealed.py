"""The envelope of a JSON object on disk or in a bucket: its format, the version of that format, and the SHA-256 of all of it."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from ..utils.errors import UserError


def sealed(kind: str, version: int, content: dict[str, Any]) -> str:
    """The JSON text of an object of a kind."""
    content = json.loads(json.dumps({"format": kind, "format_version": version} | content))
    return json.dumps(content | {"checksum": checksum(content)}, indent=1)


def unsealed(
    raw: bytes, name: object, kind: str, version: int, what: str, damaged: Callable[[str], UserError]
) -> dict[str, Any]:
    """The content of such a text, without its checksum.

    Args:
        name: of the object. what: it should be, for the message: "of a corpus". damaged: makes the error for a reason.

    Raises:
        UserError: it is damaged, of another kind or of another version.
    """
    try:
        content = json.loads(raw.decode())
        found, number, held = content["format"], content["format_version"], content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged("it can't be read") from None
    if found != kind:
        raise UserError(f"{name} has format {found!r}, not {kind!r}: it is not {what}.")
    if number != version:
        raise UserError(f"{name} has format_version={number!r}, this package reads {version}: upgrade sharedllm.")
    if held != checksum(content):
        raise damaged("its checksum does not match")
    return content


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of an object's content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
