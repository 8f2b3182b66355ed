"""A request that is asked again if the replica that had it dies, so that its client notices nothing."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Message

from ..errors import ServingError
from .played import Asked
from .routing import repeatable

# How many replicas may die with a request. One that kills them is not asked for ever.
ATTEMPTS = 3


class Gone(Exception):
    """The replica that had a request has died."""


@dataclass(frozen=True)
class Whole:
    """A whole answer of one replica."""

    replica: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Replicas(Protocol):
    """What the front knows of the replicas."""

    def ask(self, asked: Asked, memory: str) -> AsyncGenerator[list[Message], None]:
        """Yield the messages of one replica's answer. Leaving early stops it.

        Args:
            memory: that the request names, so that a replica is chosen that has it open; "" for none.

        Raises:
            Gone: the replica has died.
        """
        ...

    async def every(self, asked: Asked, seconds: float) -> list[Whole]:
        """The answers of all that live; none if one of them takes longer than so many seconds."""
        ...

    async def running(self) -> int:
        """How many can be asked."""
        ...


async def answered(replicas: Replicas, asked: Asked, memory: str) -> AsyncGenerator[Message, None]:
    """Yield the messages of an answer, whichever replicas give it: its start, and at least one part of its body.

    What is no stream is held until it is whole. A stream that has begun goes on at another replica, which gives the same answer from its
    beginning, as the answer's id and seed are the request's; what was sent already is left out.

    Raises:
        ServingError: the request changes something, and its replica died; too many died; or the other replica's answer is not the same.
    """
    begun, sent = False, bytearray()
    for _ in range(ATTEMPTS):
        at = 0
        try:
            async with aclosing(_parts(replicas, asked, memory)) as parts:
                async for start, body, more in parts:
                    new = _unsent(body, sent[at : at + len(body)])
                    at += len(body)
                    if more and not new:
                        continue
                    if not begun:
                        begun = True
                        yield start
                    sent += new
                    yield {"type": "http.response.body", "body": new, "more_body": more}
                    if not more:
                        return
            raise Gone
        except Gone:
            if not repeatable(asked.method, asked.path):
                raise ServingError(
                    503,
                    "the replica that did this died: look whether it was done (GET /v1/memories), else send it again.",
                ) from None
    raise ServingError(
        503, f"{ATTEMPTS} replicas died while they answered this: it may be too large for them; ask for less."
    )


async def _parts(replicas: Replicas, asked: Asked, memory: str) -> AsyncGenerator[tuple[Message, bytes, bool], None]:
    """Yield the start of one replica's answer with each part of its body, and whether more follows."""
    start, held = None, bytearray()
    async with aclosing(replicas.ask(asked, memory)) as said:
        async for messages in said:
            for message in messages:
                if message["type"] == "http.response.start":
                    start = message
                    continue
                assert start is not None
                held += message.get("body", b"")
                more = message.get("more_body", False)
                if more and not _is_stream(start):
                    continue
                yield start, bytes(held), more
                held.clear()


def _unsent(body: bytes, sent: bytes | bytearray) -> bytes:
    """The rest of a part whose beginning, as another replica wrote it, was sent.

    Raises:
        ServingError: it begins otherwise.
    """
    if not body.startswith(bytes(sent)):
        raise ServingError(
            500, "the replica that wrote this answer died, and another one writes it otherwise: ask again."
        )
    return body[len(sent) :]


def _is_stream(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"])
