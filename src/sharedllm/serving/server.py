"""The server as a process: socket, signals, shutdown."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Sized
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ..utils.errors import UserError
from .errors import ServingError, stopping
from .guard import HEADER_BYTES
from .replies import Json
from .worker import RETRY

# Most connections at once, and seconds for open connections to end once the server is told to stop.
CONNECTIONS = 1024
GRACE = 5
# Seconds within which the headers of a request have to arrive.
HEADER_SECONDS = 20
# To what no parser of HTTP takes; theirs end at 2¹⁶ bytes of an address.
_UNREADABLE = ServingError(
    400,
    "this is no request of HTTP/1.1: check its first line, its headers and an address of more than 65,000 characters.",
)
_HEAD = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free port.

    Raises:
        UserError: the machine has no such address, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise UserError(f"host={host!r} is not an address: use 127.0.0.1 for this machine only.") from None
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(f"can't listen on {host}, port {port}: {error.strerror}; choose another port.") from None
    return bound


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Stopped(Protocol):
    def stop(self) -> None:
        """End what is open, so that its clients get an error; called in another thread."""
        ...


class _Server(uvicorn.Server):
    """Ends unfinished jobs some seconds after it was told to stop, so that their clients get an error."""

    def __init__(self, config: uvicorn.Config, worker: Stopped):
        super().__init__(config)
        self.worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        async def end() -> None:
            await asyncio.sleep(GRACE)
            await asyncio.to_thread(self.worker.stop)

        ending = asyncio.create_task(end())
        await super().shutdown(sockets)
        ending.cancel()


def refusing(app: ASGIApp, connections: Sized, most: int) -> ASGIApp:
    """An app that refuses requests while more connections than these are open, and ends one that has no answer yet when it is
    cancelled, which uvicorn does at the end. In place of uvicorn's own errors, which are plain text."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def begins(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if len(connections) <= most:
                await app(scope, receive, begins)
                return
            error = ServingError(503, f"{most:,} connections are open already: try again in {RETRY} s.", retry=RETRY)
        except asyncio.CancelledError:
            if begun:
                raise
            error = stopping()
        await Json(error.body, error.status, error.headers | {"Connection": "close"})(scope, receive, send)

    return limited


def careful(protocol: type[asyncio.Protocol], seconds: float, most: int = CONNECTIONS) -> type[asyncio.Protocol]:
    """A uvicorn protocol that closes a connection if a request's headers are not complete in time, and that answers what
    is not HTTP, or is asked while more than `most` connections are open, in the form of all errors."""

    class Limited(protocol):
        _late: asyncio.TimerHandle | None = None
        # Of every protocol of uvicorn: the request that is being answered, the connection, what answers, and all connections.
        cycle: Any
        transport: asyncio.Transport
        app: ASGIApp
        connections: Sized

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.app = refusing(self.app, self.connections, most)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._answers():
                self._stop()
            elif self._late is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """In place of every protocol's plain text."""
            body = Json(_UNREADABLE.body).body
            self.transport.write(_HEAD % len(body) + body)
            self.transport.close()

        def _answers(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._late = asyncio.get_running_loop().call_later(seconds, self._close)

        def _stop(self) -> None:
            if self._late is not None:
                self._late.cancel()
            self._late = None

        def _close(self) -> None:
            self._late = None
            if not self._answers():
                self.transport.close()

    return Limited


def run(app: FastAPI, worker: Stopped, bound: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; running requests then have some seconds to end."""
    config = uvicorn.Config(
        app,
        http=careful(AutoHTTPProtocol, HEADER_SECONDS),
        log_level="warning",
        access_log=False,
        server_header=False,
        # Of headers that are not complete yet; complete ones are measured by `Guard`, which says what is wrong.
        h11_max_incomplete_event_size=2 * HEADER_BYTES,
        timeout_graceful_shutdown=2 * GRACE,
    )
    # uvicorn raises the signals again once it has stopped; ignore them, because this end was requested.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _Server(config, worker).run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
