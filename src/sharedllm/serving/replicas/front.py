"""What clients reach: the server's errors, key, limits and page; everything else is asked of a replica."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Message

from ..app import report_errors
from ..completing import disconnected
from ..errors import ServingError, late, stopping
from ..guard import Guard, Hosts
from ..metrics import CONTENT_TYPE, joined
from ..replies import DONE, Json, event
from ..service import MOST_BYTES
from ..site import add_page
from ..worker import RETRY
from .asking import Replicas, answered
from .played import Asked
from .routing import QUESTIONS, is_list, memory_named

logger = logging.getLogger("sharedllm.serving")

# Seconds. A replica ends a request in time, and says what took so long; this is for those that wait for one.
_LATER = 1
# Within which every replica says what it can say at once, unless it hangs.
_AT_ONCE = 10
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Front:
    """Follows requests to replicas and back.

    Args:
        model: name of the served model. seconds: longest time of a request, including waiting. most: how many questions may be open
            at once, answered or waiting.
    """

    def __init__(self, replicas: Replicas, model: str, *, seconds: float, most: int, most_waiting: int):
        self.replicas, self.model = replicas, model
        self.seconds, self.most, self.most_waiting = seconds, most, most_waiting
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """End what is open, from another thread: clients get an error."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    async def response(self, request: Request) -> Response:
        """A replica's response. A stream begins with its first part, so that an error before it has its own status."""
        asked = Asked.of(dict(request.scope), await request.body())
        events = self._followed(asked, request)
        start, first = await anext(events), await anext(events)
        if not first["more_body"]:
            await events.aclose()
            return _with(Response(first["body"], start["status"]), start["headers"])

        async def parts() -> AsyncIterator[bytes]:
            sent = 0
            async with aclosing(events):
                try:
                    message = first
                    while True:
                        yield message["body"]
                        sent += message["body"].count(b"\n\n")
                        if not message["more_body"]:
                            return
                        message = await anext(events)
                except ServingError as error:
                    yield _broken(asked.path, error, sent)

        return _with(StreamingResponse(parts(), start["status"]), start["headers"])

    async def listed(self, request: Request) -> Response:
        """What any replica can say at once, even if all are busy; if one of them hangs, what the next free one says."""
        whole = await self._best(request, _AT_ONCE)
        return await self.response(request) if whole is None else whole

    async def kept(self, request: Request) -> Response:
        """What one replica has, and makes in the time of a request."""
        whole = await self._best(request, self.seconds + _LATER)
        if whole is None:
            raise late(self.seconds)
        return whole

    async def _best(self, request: Request, seconds: float) -> Response | None:
        """Of the answers of all replicas one that is no error, if there is one; None if they took too long.

        Raises:
            ServingError: no replica is running.
        """
        said = await self.replicas.every(_bare(request), seconds)
        if said:
            whole = min(said, key=lambda whole: whole.status)
            return _with(Response(whole.body, whole.status), whole.headers)
        if not await self.replicas.running():
            raise _none()
        return None

    async def metrics(self, asked: Asked) -> str:
        """The metrics of all replicas, each with a label of its own."""
        said = await self.replicas.every(asked, _AT_ONCE)
        return joined({whole.replica: whole.body.decode() for whole in said if whole.status == 200})

    async def _followed(self, asked: Asked, request: Request) -> AsyncGenerator[Message, None]:
        """Yield the messages of an answer, and stop it if its client leaves.

        Raises:
            ServingError: too many wait; there is no answer; or it breaks off.
        """
        question = asked.path in QUESTIONS
        if question and self._open >= self.most:
            raise ServingError(
                429, f"{self.most_waiting} requests are waiting already: try again in {RETRY} s.", retry=RETRY
            )
        self._loop = asyncio.get_running_loop()
        said: asyncio.Queue[Message | ServingError] = asyncio.Queue()
        task = asyncio.create_task(self._pumped(asked, said))
        gone = asyncio.create_task(disconnected(request, task.cancel))
        self._tasks.add(task)
        self._open += question
        try:
            while True:
                item = await said.get()
                if isinstance(item, ServingError):
                    raise item
                yield item
        finally:
            self._open -= question
            self._tasks.discard(task)
            gone.cancel()
            task.cancel()

    async def _pumped(self, asked: Asked, said: asyncio.Queue[Message | ServingError]) -> None:
        memory = memory_named(asked.path, asked.body, self.model)
        try:
            async with (
                asyncio.timeout(self.seconds + _LATER),
                aclosing(answered(self.replicas, asked, memory)) as messages,
            ):
                async for message in messages:
                    said.put_nowait(message)
        except ServingError as error:
            said.put_nowait(error)
        except TimeoutError:
            said.put_nowait(late(self.seconds))
        except asyncio.CancelledError:
            said.put_nowait(stopping())
        except Exception:
            logger.exception("a request failed")
            said.put_nowait(ServingError(500, "the server failed: its log says how; try again."))


def front_application(
    front: Front,
    *,
    key: str | None = None,
    hosts: Hosts | None = None,
    most_upload: int = 2**26,
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """The front as an ASGI application; arguments are those of `Service`."""
    app = FastAPI(title="sharedllm", docs_url=None, redoc_url=None, openapi_url=None, default_response_class=Json)
    app.add_middleware(Guard, key=key, most_bytes=most_bytes, hosts=hosts, most_upload=most_upload)
    report_errors(app)

    @app.get("/health")
    async def health() -> Response:
        alive = await front.replicas.running() > 0
        return Json({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        return PlainTextResponse(await front.metrics(_bare(request)), media_type=CONTENT_TYPE)

    @app.get("/v1/explanations/{name}")
    async def explanation(request: Request) -> Response:
        """It is kept by the replica that gave the answer."""
        return await front.kept(request)

    add_page(app)

    @app.api_route("/{path:document}", methods=_METHODS)
    async def other(request: Request) -> Response:
        if is_list(request.method, request.url.path):
            return await front.listed(request)
        return await front.response(request)

    return app


def _bare(request: Request) -> Asked:
    return Asked.of(dict(request.scope), b"")


def _with(response: Response, headers: list[tuple[bytes, bytes]]) -> Response:
    """A response with exactly these headers."""
    response.raw_headers = list(headers)
    return response


def _broken(path: str, error: ServingError, number: int) -> bytes:
    """The end of a stream that breaks off, in the form of its API. number: how many events it had."""
    if path != "/v1/responses":
        return event(error.body) + DONE
    said: dict[str, Any] = error.body["error"]
    content = {"code": said["type"], "message": said["message"], "param": said["param"]}
    return event({"type": "error", "sequence_number": number, **content}, "error")


def _none() -> ServingError:
    return ServingError(503, f"no replica is running: try again in {RETRY} s.", retry=RETRY)
