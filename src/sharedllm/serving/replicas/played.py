"""Requests as values, and the server's application played to them inside a replica, without a socket."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

from ..identity import Identity

# Of the client's headers these are for the front alone.
_KEPT_BACK = (b"authorization", b"cookie", b"host")


@dataclass(frozen=True)
class Asked:
    """A request with its whole body. query, headers: as in ASGI; headers have neither key nor host."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    identity: Identity

    @classmethod
    def of(cls, scope: dict[str, Any], body: bytes) -> "Asked":
        headers = tuple((name, value) for name, value in scope["headers"] if name.lower() not in _KEPT_BACK)
        return cls(scope["method"], scope["path"], scope["query_string"], headers, body, Identity.repeatable())

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode("utf-8", "surrogateescape"),
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.headers),
            "client": None,
            "server": None,
            "state": {"identity": self.identity},
        }


async def played(app: ASGIApp, asked: Asked) -> AsyncGenerator[list[Message], None]:
    """Yield what an application answers: its messages, several at once if they come faster than they are taken. Leaving early is to
    the application what a client's leaving is."""
    said: asyncio.Queue[Message] = asyncio.Queue()
    gone = asyncio.Event()
    whole = False

    async def receive() -> Message:
        nonlocal whole
        if not whole:
            whole = True
            return {"type": "http.request", "body": asked.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    playing = asyncio.create_task(app(asked.scope, receive, said.put))  # pyright: ignore[reportArgumentType]
    try:
        while True:
            taking = asyncio.create_task(said.get())
            try:
                await asyncio.wait({taking, playing}, return_when=asyncio.FIRST_COMPLETED)
            finally:  # its client may have left
                if not taking.done():
                    taking.cancel()
            messages = [taking.result()] if taking.done() and not taking.cancelled() else []
            while not said.empty():
                messages.append(said.get_nowait())
            if messages:
                yield joined(messages)
            elif playing.done():
                playing.result()
                return
    finally:
        gone.set()
        await asyncio.gather(playing, return_exceptions=True)


def joined(messages: list[Message]) -> list[Message]:
    """The same messages, with bodies that follow each other as one."""
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else None
        if last is not None and last["type"] == message["type"] == "http.response.body":
            body = last.get("body", b"") + message.get("body", b"")
            made[-1] = {"type": message["type"], "body": body, "more_body": message.get("more_body", False)}
        else:
            made.append(message)
    return made
