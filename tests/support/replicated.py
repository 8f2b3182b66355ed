"""Replicas in this process, without Ray, which die when a test says so; and a front before them."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sharedllm.serving.app import application
from sharedllm.serving.replicas.asking import Gone, Whole
from sharedllm.serving.replicas.front import Front, front_application
from sharedllm.serving.replicas.played import Asked, played


class Local:
    """Applications, which take turns.

    deaths  of the next requests in order: after how many bytes of the body the replica dies; None: it doesn't
    memories  that the requests named
    """

    def __init__(self, *apps):
        self.apps, self.deaths, self.memories = apps, [], []
        self._turns = itertools.cycle(apps)

    async def ask(self, asked: Asked, memory: str) -> AsyncGenerator[list, None]:
        self.memories.append(memory)
        left = self.deaths.pop(0) if self.deaths else None
        app = next(self._turns)
        async with aclosing(played(app, asked)) as said:
            async for messages in said:
                for message in messages:
                    if left is not None:
                        body = message.get("body", b"")
                        if message["type"] == "http.response.body" and left <= len(body):
                            # Events are sent whole.
                            whole = b"".join(body[:left].rpartition(b"\n\n")[:2])
                            yield [message | {"body": whole, "more_body": True}]
                            raise Gone
                        left -= len(body)
                    yield [message]

    async def every(self, asked: Asked, seconds: float) -> list[Whole]:
        return [await self._whole(f"r{number}", app, asked) for number, app in enumerate(self.apps)]

    async def running(self) -> int:
        return len(self.apps)

    async def _whole(self, name: str, app, asked: Asked) -> Whole:
        messages = [message async for several in played(app, asked) for message in several]
        body = b"".join(message.get("body", b"") for message in messages)
        return Whole(name, messages[0]["status"], messages[0]["headers"], body)


def front_of(services, *, key=None, hosts=None, most=40, most_waiting=32, seconds=None):
    """A front over an application of each service, and those replicas. key: that clients have to send."""
    first = services[0]
    replicas = Local(*map(application, services))
    seconds = first.seconds if seconds is None else seconds
    front = Front(replicas, first.name, seconds=seconds, most=most, most_waiting=most_waiting)
    sizes = {"most_bytes": first.most_bytes, "most_upload": first.most_upload}
    return front_application(front, key=key, hosts=hosts, **sizes), replicas
