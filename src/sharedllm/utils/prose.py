"""English prose that every machine has: the language reference that comes with Python."""

import importlib

from .errors import UserError


def library_prose(characters: int) -> str:
    """The beginning of it, in whole topics, with at least so many characters if there are so many.

    Raises:
        UserError: this Python came without it.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise UserError("this Python has no pydoc_data, which is measured on: name a text with --data.") from None
    parts: list[str] = []
    size = 0
    for name in sorted(topics):
        if size >= characters:
            break
        parts.append(topics[name].strip())
        size += len(parts[-1])
    return "\n\n".join(parts)
