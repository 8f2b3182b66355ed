"""The routes: requests in, jobs for the worker, replies out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from .changing import add_changes
from .completing import complete, respond, worked
from .errors import ServingError, left
from .explaining import facts
from .guard import Guard
from .metrics import CONTENT_TYPE
from .parsing import BARE, StrictRoute, asked_once, elsewhere
from .replies import Json
from .requests import ChatRequest, CompletionRequest, explained, unread
from .responses import ResponsesRequest
from .service import Service
from .site import add_page
from .worker import Job

__all__ = ["Service", "application", "report_errors"]

# Where completions are asked for.
ASKED = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def application(service: Service) -> FastAPI:
    """The server as an ASGI application; the worker stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.worker.stop)

    async def scanned(request: Request) -> None:
        """Before a request is answered, see which memories other processes have made or removed."""
        if request.url.path.startswith("/v1/"):
            await asyncio.to_thread(service.memories.scan)

    app = FastAPI(
        title="sharedllm",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
        dependencies=[Depends(asked_once), Depends(scanned)],
    )
    app.router.route_class = StrictRoute
    app.add_middleware(
        Guard, key=service.key, most_bytes=service.most_bytes, hosts=service.hosts, most_upload=service.most_upload
    )
    report_errors(app, lambda path: service.metrics.finished("invalid", 0.0) if path in ASKED else None)

    @app.get("/health")
    async def health() -> Response:
        alive = service.worker.alive
        return Json({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        memories = [(m["id"], m["tokens"], m["bytes"]) for m in service.memories.listed()]
        text = service.metrics.text(service.worker.waiting, service.worker.running, memories)
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    @app.get("/v1/models", dependencies=BARE)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": service.models()}

    @app.get("/v1/models/{name:path}", dependencies=BARE)
    async def model(name: str) -> dict[str, Any]:
        return service.described(name)

    @app.post(ASKED[0])
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await complete(service, body, request)

    @app.post(ASKED[1])
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await complete(service, body, request)

    @app.post(ASKED[2])
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        return await respond(service, body, request)

    @app.get("/v1/explanations/{name}", dependencies=BARE)
    async def explanation(name: str) -> dict[str, Any]:
        read = service.explanations[name]
        job = Job(lambda _: facts(read, service.model, service.tokenizer, service.name), service.seconds)
        async with aclosing(worked(service.worker, job)) as events:
            return await anext(events)

    add_changes(app, service)
    add_page(app)
    return app


def report_errors(app: FastAPI, refused: Callable[[str], None] | None = None) -> None:
    """Return every error in the form of OpenAI's API.

    refused: called with the path of each request whose body is not accepted.
    """

    def sent(error: ServingError) -> Json:
        return Json(error.body, error.status, error.headers)

    @app.exception_handler(ServingError)
    async def ours(_: Request, error: ServingError) -> Json:
        return sent(error)

    @app.exception_handler(ClientDisconnect)
    async def broken_off(_: Request, __: ClientDisconnect) -> Json:
        return sent(left())

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Json:
        if refused is not None:
            refused(request.url.path)
        return sent(explained(list(error.errors()), error.body, request.headers.get("content-type")))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Json:
        cause = error.__cause__
        if error.status_code == 400 and isinstance(cause, ValueError | RecursionError):  # in parsing the body
            if refused is not None:
                refused(request.url.path)
            return sent(unread(cause, request.headers.get("content-encoding", "")))
        there = elsewhere(app, request) if error.status_code in (404, 405) else error.detail
        return sent(ServingError(error.status_code, there))
