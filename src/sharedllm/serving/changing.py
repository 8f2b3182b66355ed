"""Routes that list and change memories: they are made and removed, and documents sent as JSON or as files, with progress."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response

from ..documents.apart import Text
from ..utils.text import tokenize
from ..utils.text_files import line_feeds
from .completing import disconnected, worked
from .editing import add_document, check_free, make_memory, remove_document, remove_memory
from .errors import ServingError, left
from .names import check_document, check_memory
from .parsing import BARE
from .passages import passage
from .replies import DONE, Json, event, streamed
from .requests import DocumentRequest, MemoryRequest, PassageQuery, UploadQuery
from .service import Service
from .uploads import Extractions
from .worker import Job


class _Name(PathConvertor):
    """A document's name in an address: anything, as a file's name may even hold a line end."""

    regex = "(?s:.*)"


register_url_convertor("document", _Name())


def add_changes(app: FastAPI, service: Service) -> None:
    """The routes below /v1/memories."""
    extractions = Extractions()

    @app.get("/v1/memories", dependencies=BARE)
    async def memories() -> dict[str, Any]:
        await asyncio.to_thread(service.memories.refresh)
        listed = {"object": "list", "data": service.memories.listed(), "most_upload": service.most_upload}
        return listed | {"makes_memories": service.memories.folder is not None}

    @app.post("/v1/memories", dependencies=BARE)
    async def make(body: MemoryRequest) -> Response:
        """A new memory without documents, in the server's folder."""
        if service.memories.folder is None:
            raise ServingError(
                403, "this server makes no memories: start it with `--folder DIR`, in which to make them."
            )
        check_memory(body.name)
        work = Job(
            lambda _: make_memory(service.memories, body.name, service.model, service.tokenizer),
            service.seconds,
            changes=True,
        )
        return Json(await _result(service, work), 201)

    @app.get("/v1/memories/{name}", dependencies=BARE)
    async def memory(name: str) -> dict[str, Any]:
        await asyncio.to_thread(service.memories.refresh)
        return service.memories.described(name)

    @app.delete("/v1/memories/{name}", dependencies=BARE)
    async def drop(name: str) -> dict[str, Any]:
        """Of the server's folder."""
        _ = service.memories[name]
        work = Job(lambda _: remove_memory(service.memories, name), service.seconds, changes=True)
        return await _result(service, work)

    @app.post("/v1/memories/{name}/documents", dependencies=BARE)
    async def add(name: str, body: DocumentRequest) -> dict[str, Any]:
        """Once begun, this continues even if the client disconnects."""
        _ = service.memories[name]
        check_document(body.name, "name")
        job = _reading(service, name, body.name, body.text)
        return await _result(service, job)

    @app.get("/v1/memories/{name}/documents/{document:document}")
    async def read(name: str, document: str, asked: Annotated[PassageQuery, Query()]) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            held = service.memories.current(name)
            return passage(held, service.tokenizer, document, asked.start, asked.end)

        return await asyncio.to_thread(work)

    @app.put("/v1/memories/{name}/documents/{document:document}")
    async def put(name: str, document: str, request: Request, asked: Annotated[UploadQuery, Query()]) -> Response:
        """A file, of which nothing stays if its client leaves before it is read."""
        _ = service.memories[name]
        check_document(document)
        await asyncio.to_thread(check_free, service.memories, name, document, asked.replace)
        data = await request.body()
        file = await _while_there(request, extractions.text(document, data, service.seconds))
        job = _reading(service, name, document, file, replaces=asked.replace)
        events = _followed(service, job, request)
        if "text/event-stream" not in request.headers.get("accept", ""):
            return Json(await _last(events))
        # The first event decides between a stream and an error with its own status.
        first = await anext(events)

        async def stream() -> AsyncIterator[bytes]:
            async with aclosing(events):
                yield event(first)
                try:
                    async for item in events:
                        yield event(item)
                except ServingError as error:
                    yield event(error.body)
                yield DONE

        return streamed(stream())

    @app.delete("/v1/memories/{name}/documents/{document:document}", dependencies=BARE)
    async def remove(name: str, document: str) -> dict[str, Any]:
        _ = service.memories[name]
        return await _result(
            service, Job(lambda _: remove_document(service.memories, name, document), service.seconds, changes=True)
        )


def _reading(service: Service, name: str, document: str, given: str | Text, *, replaces: bool = False) -> Job:
    """The job that reads a document, a text or a file; it emits its progress."""
    model, tokenizer = service.model, service.tokenizer
    text, origin = (line_feeds(given), None) if isinstance(given, str) else (given.text, given.origin)

    def work(job: Job) -> dict[str, Any]:
        size, read = estimated_tokens(service, text), 0

        def progress(tokens: int) -> None:
            nonlocal read
            read += tokens
            job.emit({"object": "memory.progress", "document": document, "read": read, "of": max(size, read)})
            service.worker.between()
            job.check()

        job.emit({"object": "memory.progress", "document": document, "read": 0, "of": size})
        memory = add_document(
            service.memories, name, document, text, model, tokenizer, progress, origin=origin, replaces=replaces
        )
        # What was guessed to read a file is said, as on the command line.
        return memory | ({"read_as": given.read_as} if isinstance(given, Text) and given.read_as else {})

    return Job(work, service.seconds, changes=True)


def estimated_tokens(service: Service, text: str) -> int:
    """About how many tokens a text has, from its beginning."""
    sample = text[:20_000]
    tokens = tokenize(service.tokenizer, sample).shape[1]
    return max(round(tokens * len(text) / max(len(sample), 1)), 1)


async def _result(service: Service, job: Job) -> dict[str, Any]:
    return await _last(worked(service.worker, job))


async def _last(events: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async with aclosing(events):
        async for item in events:
            last = item
    return last


async def _while_there(request: Request, work: Coroutine[Any, Any, Text]) -> Text:
    """The result of some work, which is cancelled when the client disconnects."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.create_task(disconnected(request, doing.cancel))
    try:
        return await doing
    except asyncio.CancelledError:
        if not gone.done():
            raise
        raise left() from None
    finally:
        gone.cancel()


async def _followed(service: Service, job: Job, request: Request) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a job, which stops when the client disconnects."""
    gone = asyncio.create_task(disconnected(request, job.cancel))
    try:
        async with aclosing(worked(service.worker, job)) as events:
            async for item in events:
                yield item
    finally:
        gone.cancel()
