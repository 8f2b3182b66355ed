"""Middleware for every request: request id, key, and size limit."""

import hmac
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ServingError
from .replies import Json


class Guard:
    """Middleware: X-Request-ID, bearer key (all but /health), and the size of bodies."""

    def __init__(self, app: ASGIApp, key: str | None, most_bytes: int):
        self.app, self.key, self.most_bytes = app, key, most_bytes

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

        error = self._refused(scope["path"], headers)
        if error is not None:
            await Json(error.body, error.status, error.headers)(scope, receive, named)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most_bytes:
                raise HTTPException(413, str(self._large()))
            return message

        await self.app(scope, counted, named)

    def _refused(self, path: str, headers: Headers) -> ServingError | None:
        if self.key is not None and path != "/health":
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
                return ServingError(401, "the key is missing or wrong: send it as Authorization: Bearer KEY.")
        length = headers.get("content-length", "0")
        return self._large() if length.isdecimal() and int(length) > self.most_bytes else None

    def _large(self) -> ServingError:
        return ServingError(413, f"the body has more than {self.most_bytes:,} bytes: send it in parts.")
