"""From a request to its response: a job for the worker, followed until it ends or its client leaves."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request
from starlette.responses import Response

from .answering import Answered
from .choice import Piece
from .errors import ServingError, stopping
from .identity import Identity
from .replies import Json, Reply, streamed
from .requests import ChatRequest, CompletionRequest
from .responses import ResponsesReply, ResponsesRequest
from .service import Service
from .worker import Cancelled, Job, Worker

logger = logging.getLogger("sharedllm.serving")

# Status of a finished request → how it is counted; any other status is a server error.
_OUTCOMES = {400: "invalid", 404: "invalid", 409: "invalid", 413: "invalid", 429: "full", 504: "timeout"}


async def complete(service: Service, body: ChatRequest | CompletionRequest, request: Request) -> Response:
    chat, options = isinstance(body, ChatRequest), body.stream_options
    usage = options is not None and bool(options.include_usage)
    named = Identity.of(request).named
    reply = Reply(body.model or service.name, chat, service.tokenizer, body.choices, usage, **named)
    return await _replied(service, body, request, reply)


async def respond(service: Service, body: ResponsesRequest, request: Request) -> Response:
    """The same in the form of the Responses API."""
    reply = ResponsesReply(body.model or service.name, body, **Identity.of(request).named)
    return await _replied(service, body.as_chat, request, reply)


async def _replied(
    service: Service, body: ChatRequest | CompletionRequest, request: Request, reply: Reply | ResponsesReply
) -> Response:
    """Answer, whole or as a stream. A stream begins with the first piece, so an error before it has its own status."""
    events = _followed(service, body, request)
    if not body.stream:
        answered = await _last(events)
        service.explanations.keep(reply.name, answered)
        return Json(reply.whole(answered))
    first = await anext(events)

    async def stream() -> AsyncIterator[bytes]:
        async with aclosing(events):
            for part in reply.first():
                yield part
            try:
                item = first
                while not isinstance(item, Answered):
                    yield reply.piece(item)
                    item = await anext(events)
                service.explanations.keep(reply.name, item)
                for part in reply.last(item):
                    yield part
            except ServingError as error:
                yield reply.failed(error)

    return streamed(stream())


async def _last(events: AsyncGenerator[Piece | Answered, None]) -> Answered:
    async with aclosing(events):
        async for answered in events:
            if isinstance(answered, Answered):
                return answered
    raise AssertionError("the answer is the last event")


async def _followed(
    service: Service, body: ChatRequest | CompletionRequest, request: Request
) -> AsyncGenerator[Piece | Answered, None]:
    """Yield the pieces of an answer, then the whole. It is counted however it ends, and stops when the client disconnects.

    Raises:
        ServingError: there is no answer, or it breaks off.
    """
    outcome, gone, begun = "cancelled", None, time.monotonic()
    body = Identity.of(request).seeded(body)

    def work(job: Job) -> Any:
        service.metrics.waited(job.age)
        return service.answer(body, job)

    try:
        service.check(body)
        job = Job(work, service.seconds)
        gone = asyncio.create_task(disconnected(request, job.cancel))
        async with aclosing(worked(service.worker, job)) as events:
            async for item in events:
                if isinstance(item, Answered):
                    outcome = "ok"
                    service.metrics.answered(item.tokens)
                yield item
    except ServingError as error:
        outcome = "cancelled" if error.status == 503 and service.worker.alive else _OUTCOMES.get(error.status, "error")
        raise
    finally:
        if gone is not None:
            gone.cancel()
        service.metrics.finished(outcome, time.monotonic() - begun)


async def worked(worker: Worker, job: Job) -> AsyncGenerator[Any, None]:
    """Yield a job's results; every error becomes one that can be sent."""
    try:
        worker.submit(job)
        async with aclosing(job.events()) as events:
            async for item in events:
                yield item
    except Cancelled:
        raise stopping() from None
    except ServingError:
        raise
    except Exception:
        logger.exception("a request failed")
        raise ServingError(500, "the server failed: its log says how; try again.") from None


async def disconnected(request: Request, then: Callable[[], object]) -> None:
    """Wait for the client to disconnect."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    then()
