"""English prose that every Python installation has: the language reference."""

import importlib

from .errors import UserError


def library_prose(characters: int) -> str:
    """The first whole topics of the reference, at least `characters` long if it has that many.

    Raises:
        UserError: this Python came without it.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise UserError("this Python has no pydoc_data, the default text: name a text as data=FILE.") from None
    parts: list[str] = []
    size = 0
    for name in sorted(topics):
        if size >= characters:
            break
        parts.append(topics[name].strip())
        size += len(parts[-1])
    return "\n\n".join(parts)
