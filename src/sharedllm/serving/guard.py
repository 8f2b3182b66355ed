"""Middleware for every request: request id, host, key, and limits of size and time."""

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..utils.errors import clipped
from .errors import ServingError
from .replies import Json
from .site import is_public

# Seconds within which a body has to arrive, and the number of bytes that allows one more second.
BODY_SECONDS = 30
BODY_RATE = 10_000
# Most bytes of a request's headers: names and values.
HEADER_BYTES = 2**15


class Hosts:
    """The names by which clients may address this server (the header Host).

    A page of another site can make its own name resolve to this machine and then read from this server; the browser
    sends that site's name as Host.
    """

    def __init__(self, host: str, allowed: Sequence[str] = ()):
        """
        Args:
            host: the address to listen on. allowed: additional names; "*" for any.
        """
        self.names = {"localhost", "127.0.0.1", "::1", *(name.strip("[]").lower() for name in (host, *allowed))}
        # Other machines may use any address of this machine; a page can't use an address as its name.
        self.addresses = host in ("0.0.0.0", "::", "")

    def __contains__(self, header: str) -> bool:
        name = header.strip().lower()
        port = name.rpartition(":")[2]
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif port.isdecimal() and name.count(":") == 1:
            name = name.partition(":")[0]
        name = name.removesuffix(".")
        return "*" in self.names or name in self.names or (self.addresses and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Middleware: X-Request-ID, the host, bearer key (all but /health and the page's files), the size of headers, and the size of bodies and the time they take."""

    def __init__(
        self, app: ASGIApp, key: str | None, most_bytes: int, hosts: Hosts | None = None, most_upload: int | None = None
    ):
        """most_upload: most bytes of a file (PUT); default: as of any body."""
        self.app, self.key, self.most_bytes, self.hosts = app, key, most_bytes, hosts
        self.most_upload = most_bytes if most_upload is None else most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        identity = asked if 0 < len(asked) <= 128 and asked.isascii() and asked.isprintable() else secrets.token_hex(16)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = identity
            await send(message)

        upload = scope["method"] == "PUT"
        most = self.most_upload if upload else self.most_bytes
        error = _long(headers) or self._refused(scope, headers) or self._large(headers, most, upload)
        if error is not None:
            await Json(error.body, error.status, error.headers)(scope, receive, named)
            return
        size, begun, whole = 0, asyncio.get_running_loop().time(), False

        async def counted() -> Message:
            nonlocal size, whole
            try:
                # After the whole body the only message is the client's disconnect, at any time.
                async with asyncio.timeout_at(None if whole else begun + BODY_SECONDS + size / BODY_RATE):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time: send it faster, or in parts.") from None
            size += len(message.get("body", b""))
            whole = whole or not message.get("more_body", False)
            if size > most:
                raise HTTPException(413, _too_large(most, upload))
            return message

        await self.app(scope, counted, named)

    def _refused(self, scope: Scope, headers: Headers) -> ServingError | None:
        method, path, hosts = scope["method"], scope["path"], headers.getlist("host")
        if self.hosts is not None and not hosts:
            # HTTP/1.0, by which some monitors ask, has no Host.
            if path != "/health" or scope["http_version"] != "1.0":
                return ServingError(400, "the header Host is missing: send it, with the name of this server.")
        elif self.hosts is not None and (len(hosts) > 1 or hosts[0] not in self.hosts):
            given = clipped(", ".join(hosts))
            return ServingError(
                421, f"Host: {given} is not served here: use localhost, or start the server with `--allow-host`."
            )
        open_to_all = path == "/health" or is_public(method, path)
        if self.key is not None and not open_to_all and not self._is_key(headers.get("authorization", "")):
            return ServingError(401, "the key is missing or wrong: send it as Authorization: Bearer KEY.")
        return None

    def _is_key(self, given: str) -> bool:
        scheme, _, sent = given.strip().partition(" ")
        # Headers are decoded as Latin-1; clients send non-ASCII text as Latin-1 or UTF-8.
        wanted = [self.key.encode(code) for code in ("utf-8", "latin-1") if _fits(self.key, code)] if self.key else []
        same = [hmac.compare_digest(sent.strip().encode("latin-1"), key) for key in wanted]
        return scheme.lower() == "bearer" and any(same)

    def _large(self, headers: Headers, most: int, upload: bool) -> ServingError | None:
        length = headers.get("content-length", "0")
        return ServingError(413, _too_large(most, upload)) if length.isdecimal() and int(length) > most else None


def _long(headers: Headers) -> ServingError | None:
    if sum(len(name) + len(value) for name, value in headers.raw) <= HEADER_BYTES:
        return None
    return ServingError(431, f"the headers have more than {HEADER_BYTES:,} bytes: send fewer, or shorter ones.")


def _too_large(most: int, upload: bool) -> str:
    what, fix = (
        ("the file", "split it, or raise the server's `--max-upload`") if upload else ("the body", "send it in parts")
    )
    return f"{what} has more than {most:,} bytes: {fix}."


def _fits(text: str, code: str) -> bool:
    try:
        text.encode(code)
    except UnicodeEncodeError:
        return False
    return True
