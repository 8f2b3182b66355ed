"""Which memories a replica holds open."""

from ..memories import Memories


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
