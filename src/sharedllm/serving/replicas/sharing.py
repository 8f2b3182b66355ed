"""What a replica sees of the others: they share memories on disk, and change them for each other."""

from contextlib import suppress

from ..errors import ServingError
from ..memories import Memories
from .played import Asked
from .routing import DOCUMENTS, is_list


def look_again(memories: Memories, asked: Asked, memory: str) -> None:
    """See what a request can notice of what others have changed, before it is answered. Questions look for themselves.

    Args:
        memory: that the request names.
    """
    if is_list(asked.method, asked.path):
        memories.refresh()
        return
    memories.scan()
    if asked.path.startswith(DOCUMENTS) and memory in memories.names:
        with suppress(ServingError):  # the application says so
            memories.current(memory)
