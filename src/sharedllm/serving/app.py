"""The routes: requests in, jobs for the worker, replies out."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from .answering import Answered, answer
from .errors import ServingError, invalid
from .guard import Guard, Hosts
from .memories import Memories
from .metrics import Metrics
from .replies import DONE, Json, Reply, event
from .requests import ChatRequest, CompletionRequest, DocumentRequest, explained
from .worker import Cancelled, Job, Worker

logger = logging.getLogger("sharedllm.serving")

# Status of a finished request → how it is counted; any other status is a server error.
_OUTCOMES = {400: "invalid", 404: "invalid", 409: "invalid", 413: "invalid", 429: "full", 504: "timeout"}


@dataclass(frozen=True)
class Service:
    """The served model and memories.

    name     of the model. budget, score: defaults for selecting from a memory (see `answering.ask`)
    seconds  longest time of a request, including waiting. most_bytes: size limit of a body
    most_characters  limit of a prompt, checked before it is tokenised
    key      that clients must send; None for none. hosts: names by which clients may address the server; None for any
    """

    model: SharedLLMForCausalLM
    tokenizer: PreTrainedTokenizerBase
    name: str
    memories: Memories
    worker: Worker
    budget: int
    score: str | None = None
    seconds: float = 600
    most_bytes: int = 16 * 2**20
    most_characters: int = 2**21
    key: str | None = None
    hosts: Hosts | None = None
    metrics: Metrics = field(default_factory=Metrics)

    def described(self) -> dict[str, Any]:
        """The model in the form of OpenAI's API, with its window."""
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "sharedllm"}
        return model | {"window": self.model.config.window}

    def check_model(self, name: str) -> None:
        """
        Raises:
            ServingError: this model is not served.
        """
        if name != self.name:
            raise ServingError(404, f"model={name!r} is not served: use {self.name!r}.", "model")

    def answer(self, request: ChatRequest | CompletionRequest, job: Job) -> Answered:
        """Answer a request; runs in the worker's thread."""

        def token() -> None:
            nonlocal seen
            if not seen:
                self.metrics.first_token(job.age)
            seen = True
            self.metrics.token()

        seen, name = False, self.memories.meant(request.memory)
        return answer(
            self.model,
            self.tokenizer,
            request,
            (name, self.memories.current(name)) if name is not None else None,
            budget=self.budget,
            score=self.score,
            check=job.check,
            on_prompt=self.metrics.read,
            on_token=token,
            on_text=job.emit,
        )


def application(service: Service) -> FastAPI:
    """The server as an ASGI application; the worker stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.worker.stop)

    app = FastAPI(title="sharedllm", lifespan=lifespan, docs_url=None, redoc_url=None, default_response_class=Json)
    app.add_middleware(Guard, key=service.key, most_bytes=service.most_bytes, hosts=service.hosts)
    _report_errors(app)

    @app.get("/health")
    async def health() -> Response:
        alive = service.worker.alive
        return Json({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        memories = [(m["id"], m["tokens"], m["bytes"]) for m in service.memories.listed()]
        text = service.metrics.text(service.worker.waiting, service.worker.running, memories)
        return PlainTextResponse(text.encode("utf-8", "replace"), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.described()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.described()

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _complete(service, body, request, Reply(service.name, chat=True))

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await _complete(service, body, request, Reply(service.name, chat=False))

    @app.get("/v1/memories")
    async def memories() -> dict[str, Any]:
        return {"object": "list", "data": service.memories.listed()}

    @app.post("/v1/memories/{name}/documents")
    async def add(name: str, body: DocumentRequest) -> dict[str, Any]:
        model, tokenizer = service.model, service.tokenizer
        return await _changed(
            service,
            name,
            lambda job: service.memories.add(name, body.name, body.text, model, tokenizer, job.check),
        )

    @app.delete("/v1/memories/{name}/documents/{document:path}")
    async def remove(name: str, document: str) -> dict[str, Any]:
        return await _changed(service, name, lambda _: service.memories.remove(name, document))

    return app


async def _complete(
    service: Service, body: ChatRequest | CompletionRequest, request: Request, reply: Reply
) -> Response:
    """Answer, whole or as a stream. A stream begins with the first piece, so an error before it has its own status."""
    events = _followed(service, body, request)
    if not body.stream:
        async with aclosing(events):
            async for answered in events:
                if isinstance(answered, Answered):
                    return Json(reply.whole(answered))
        raise AssertionError("the answer is the last event")
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    first = await anext(events)

    async def stream() -> AsyncIterator[bytes]:
        async with aclosing(events):
            for part in reply.first():
                yield event(part)
            try:
                item = first
                while not isinstance(item, Answered):
                    yield event(reply.piece(item))
                    item = await anext(events)
                for part in reply.last(item, usage):
                    yield event(part)
            except ServingError as error:
                yield event(error.body)
            yield DONE

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _followed(
    service: Service, body: ChatRequest | CompletionRequest, request: Request
) -> AsyncGenerator[str | Answered, None]:
    """Yield the pieces of an answer, then the whole. It is counted however it ends, and stops when the client disconnects.

    Raises:
        ServingError: there is no answer, or it breaks off.
    """
    outcome, gone = "cancelled", None
    try:
        _check(service, body)
        job = Job(lambda job: service.answer(body, job), service.seconds)
        gone = asyncio.create_task(_disconnected(request, job.cancel))
        async with aclosing(_worked(service.worker, job)) as events:
            async for item in events:
                if isinstance(item, Answered):
                    outcome = "ok"
                yield item
    except ServingError as error:
        outcome = "cancelled" if error.status == 503 and service.worker.alive else _OUTCOMES.get(error.status, "error")
        raise
    finally:
        if gone is not None:
            gone.cancel()
        service.metrics.finished(outcome)


async def _worked(worker: Worker, job: Job) -> AsyncGenerator[Any, None]:
    """Yield a job's results; every error becomes one that can be sent."""
    try:
        worker.submit(job)
        async with aclosing(job.events()) as events:
            async for item in events:
                yield item
    except Cancelled:
        raise ServingError(503, "the server is stopping: try again later.") from None
    except ServingError:
        raise
    except Exception:
        logger.exception("a request failed")
        raise ServingError(500, "the server failed: its log says how; try again.") from None


async def _changed(service: Service, name: str, work: Callable[[Job], dict[str, Any]]) -> dict[str, Any]:
    """Change a memory and return the result. Once begun, a change continues even if the client disconnects."""
    _ = service.memories[name]
    async with aclosing(_worked(service.worker, Job(work, service.seconds))) as events:
        return await anext(events)


def _check(service: Service, body: ChatRequest | CompletionRequest) -> None:
    """Refuse what can be refused before the request is queued."""
    if body.model is not None:
        service.check_model(body.model)
    if service.memories.meant(body.memory) is None and body.budget is not None:
        raise invalid("budget", f"budget={body.budget} needs a memory to read from: name one in memory.")
    body.check()
    field, size = ("prompt", len(body.prompt)) if isinstance(body, CompletionRequest) else ("messages", body.characters)
    if size > service.most_characters:
        message = f"{field} has {size:,} characters, more than {service.most_characters:,}: shorten it, or read the text into a memory."
        raise ServingError(413, message, field)


async def _disconnected(request: Request, then: Callable[[], None]) -> None:
    """Wait for the client to disconnect."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    then()


def _report_errors(app: FastAPI) -> None:
    """Return every error in the form of OpenAI's API."""

    def sent(error: ServingError) -> Json:
        return Json(error.body, error.status, error.headers)

    @app.exception_handler(ServingError)
    async def ours(_: Request, error: ServingError) -> Json:
        return sent(error)

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> Json:
        return sent(explained(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Json:
        path = f"{request.method} {request.url.path}: " if error.status_code in (404, 405) else ""
        return sent(ServingError(error.status_code, f"{path}{error.detail}"))
