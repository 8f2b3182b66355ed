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


class Leases:
    """Which memories a replica may hold open. A lease ends when its object does, as Ray Serve asks for so many at most."""

    def __init__(self, memories: Memories):
        self.memories, self.names = memories, set[str]()

    def take(self, name: str) -> "Lease":
        """Open a memory.

        Raises:
            ServingError: see `Memories.current`.
        """
        self.memories.current(name)
        return Lease(self, name)

    def asked(self, name: str) -> None:
        """Let a memory go after a request, if its lease ended while the request waited, so that it was opened once more."""
        if name not in self.names:
            self.memories.close(name)


class Lease:
    def __init__(self, leases: Leases, name: str):
        self._leases, self._name = leases, name
        leases.names.add(name)

    def __del__(self):
        self._leases.names.discard(self._name)
        self._leases.memories.close(self._name)
