"""The requests that a client may send. Fields without effect here are refused, unless their value asks for nothing, so
that a client learns that they are not supported."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..utils.text_files import is_text
from .errors import ServingError, invalid

# Default number of new tokens.
DEFAULT_TOKENS = 256


# Values of unknown fields that ask for nothing. In any field, null, false and empty values ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "function_call": ("none", "auto"),  # there are no functions
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
}


def asks_for_nothing(field: str, value: Any) -> bool:
    """Whether a field's value asks for nothing, so that clients that always send it get their answer."""
    # 0 is not empty: logprobs=0 asks for something.
    return value is None or value is False or value in ("", [], {}) or value in _NOTHING.get(field, ())


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, content: Any) -> Any:
        """Drop unknown fields that ask for nothing."""
        if not isinstance(content, dict):
            return content
        if not all(is_text(k) for k in content):
            raise ValueError("the name of a field contains half of a character")
        return {k: v for k, v in content.items() if k in cls.model_fields or not asks_for_nothing(k, v)}


class StreamOptions(Body):
    include_usage: bool | None = None


class Sampled(Body):
    """Fields common to chat and plain completions.

    temperature  0, the default, takes the likeliest token; this model answers best that way
    memory       name of a memory to read from, "" for none; default: the served memory, if there is only one
    budget       most tokens of it; default: the server's
    """

    model: str | None = None
    max_tokens: Annotated[int | None, Field(ge=1, le=2**20)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    stop: str | list[str] | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None
    memory: str | None = None
    budget: Annotated[int | None, Field(ge=1)] = None
    user: str | None = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None

    @property
    def tokens(self) -> int:
        return self.max_tokens or DEFAULT_TOKENS

    @property
    def stops(self) -> tuple[str, ...]:
        """
        Raises:
            ServingError: an empty stop, or more than four.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > 4 or "" in stops:
            raise invalid("stop", f"stop={list(stops)} must be at most four texts, none of them empty: change it.")
        return stops

    def check(self) -> None:
        """Refuse what can be refused before the request is queued.

        Raises:
            ServingError: invalid stops, or stream options without a stream.
        """
        _ = self.stops
        options = self.stream_options
        if not self.stream and options is not None and options.include_usage is not None:
            raise invalid("stream_options", "stream_options needs stream=true: send that, or leave it out.")


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _empty(cls, content: Any) -> Any:
        """Clients send an empty answer back as null."""
        return "" if content is None else content

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampled):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=2**20)] = None
    logprobs: Literal[False] | None = None

    @property
    def characters(self) -> int:
        return sum(len(message.text) for message in self.messages)

    @property
    def tokens(self) -> int:
        return self.max_completion_tokens or super().tokens


class CompletionRequest(Sampled):
    prompt: Annotated[str, Field(min_length=1)]

    @field_validator("prompt", mode="before")
    @classmethod
    def _only(cls, prompt: Any) -> Any:
        """A list of one prompt is that prompt."""
        return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


class DocumentRequest(Body):
    name: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
    text: Annotated[str, Field(min_length=1)]


def explained(errors: list[Any]) -> ServingError:
    """Pydantic's first error as field, value and fix."""
    first = errors[0]
    # The location also names members of a union, which are not fields of the request: names of classes and types.
    field = ".".join(str(p) for p in first["loc"] if p != "body" and "[" not in str(p) and p != "str") or None
    if first["type"] in ("json_invalid", "model_attributes_type"):
        return invalid(None, "the body is not a JSON object: send one, with Content-Type: application/json.")
    if first["type"] == "extra_forbidden":
        return invalid(field, f"{field} is not supported: leave it out.")
    if first["type"] == "missing":
        return invalid(field, f"{field or 'the body'} is missing: send it.")
    shown = repr(first["input"])
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    return invalid(field, f"{field or 'the body'}={shown} is not accepted: {first['msg'].lower()}.")
