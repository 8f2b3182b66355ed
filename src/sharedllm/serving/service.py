"""The served model and memories, and the names by which clients know them."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..rows import Row
from ..utils.errors import first_of, shown
from .answering import Answered, answer
from .choice import Hooks
from .errors import ServingError, invalid
from .explaining import Explanations
from .guard import Hosts
from .memories import Memories
from .metrics import Metrics
from .requests import ChatRequest, CompletionRequest, Sampled
from .worker import Job, Worker

# Most bytes of a request's body.
MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Service:
    """The served model and memories.

    name     of the model. budget, score: defaults for selecting from a memory (see `answering.ask`)
    seconds  longest time of a request, including waiting. most_bytes: size limit of a body; most_upload: of a file
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
    most_bytes: int = MOST_BYTES
    most_upload: int = 64 * 2**20
    most_characters: int = 2**21
    key: str | None = None
    hosts: Hosts | None = None
    metrics: Metrics = field(default_factory=Metrics)
    explanations: Explanations = field(default_factory=Explanations)

    def models(self) -> list[dict[str, Any]]:
        """The model, and the model with each memory, in the form of OpenAI's API."""
        return [
            self._described(name) for name in (self.name, *(f"{self.name}:{memory}" for memory in self.memories.names))
        ]

    def described(self, name: str) -> dict[str, Any]:
        """
        Raises:
            ServingError: this model is not served.
        """
        _ = self.memory_of(name)
        return self._described(name)

    def memory_of(self, model: str | None) -> str | None:
        """The memory in a model's name, MODEL:MEMORY; None if it names the model alone.

        Raises:
            ServingError: this model, or its memory, is not served.
        """
        if model is None or model == self.name:
            return None
        memory = model.removeprefix(f"{self.name}:")
        if memory in self.memories.names and memory != model:
            return memory
        there = [self.name, *(f"{self.name}:{memory}" for memory in self.memories.names)]
        if model in self.memories.names:
            said = f"model={model!r} is a memory: use '{self.name}:{model}', or {self.name!r} with memory={model!r}."
        else:
            said = f"model={shown(model)} is not served: use one of {first_of(there, like=model)}."
        raise ServingError(404, said, "model")

    def named(self, request: Sampled) -> str | None:
        """The memory that a request names, in `model` or in `memory`; "" for none.

        Raises:
            ServingError: this model is not served, or the two fields name different memories.
        """
        memory = self.memory_of(request.model)
        if memory is not None and request.memory not in (None, memory):
            raise invalid(
                "memory", f"memory={request.memory!r} and model={request.model!r} differ: leave one of them out."
            )
        return request.memory if memory is None else memory

    def check(self, request: ChatRequest | CompletionRequest) -> None:
        """Refuse what can be refused before a request is queued."""
        if self.memories.meant(self.named(request)) is None and request.budget is not None:
            raise invalid("budget", f"budget={request.budget} needs a memory to read from: name one in memory.")
        request.check()
        field = request.asked_in
        if (size := request.characters) > self.most_characters:
            message = f"{field} has {size:,} characters, more than {self.most_characters:,}: shorten it, or read the text into a memory."
            raise ServingError(413, message, field)

    def answer(self, request: ChatRequest | CompletionRequest, job: Job) -> Generator[list[Row], None, Answered]:
        """Answer a request, in the worker's thread; see `answering.answer`."""

        def token() -> None:
            nonlocal seen
            if not seen:
                self.metrics.first_token(job.age)
            seen = True
            self.metrics.token()

        named = self.named(request)
        seen, name = False, self.memories.meant(named)
        return answer(
            self.model,
            self.tokenizer,
            request,
            (name, self.memories.current(name)) if name is not None else None,
            named=named is not None,
            budget=self.budget,
            score=self.score,
            hooks=Hooks(job.check, self.metrics.read, token, job.emit, self.worker.between),
            warning=self._unread(named),
        )

    def _unread(self, named: str | None) -> str | None:
        """A warning for a request that could have meant a memory, but names none of several."""
        there = self.memories.names
        if named is not None or len(there) < 2:
            return None
        return (
            f"no memory was read: name one in model ({self.name}:{there[0]}) or in memory ({first_of(there)}); memory='' asks "
            "without."
        )

    def _described(self, name: str) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "sharedllm"}
        return model | {"window": self.model.config.window}
