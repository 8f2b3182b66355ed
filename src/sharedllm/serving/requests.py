"""What a client may send. Fields that have no effect here are refused unless they ask for nothing: a client learns that its
wish is not met."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import ServingError, invalid

# New tokens where a request does not say how many.
DEFAULT_TOKENS = 256


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(Body):
    include_usage: bool = False


class Sampled(Body):
    """What chat and plain completions share.

    temperature  0 takes the likeliest token, which is how this model answers best, and the default
    memory       name of a memory to read from; budget: most tokens of it (default: the server's)
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


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampled):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=2**20)] = None
    logprobs: Literal[False] | None = None

    @property
    def tokens(self) -> int:
        return self.max_completion_tokens or super().tokens


class CompletionRequest(Sampled):
    prompt: Annotated[str, Field(min_length=1)]


class DocumentRequest(Body):
    name: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
    text: Annotated[str, Field(min_length=1)]


def explained(errors: list[Any]) -> ServingError:
    """The first of pydantic's complaints as field, value and fix."""
    first = errors[0]
    # Members of a union are not fields of the request: the names of classes and types begin otherwise, or end a place.
    field = ".".join(str(p) for p in first["loc"] if p != "body" and "[" not in str(p) and p != "str") or None
    if first["type"] in ("json_invalid", "model_attributes_type"):
        return invalid(None, "the body is no JSON object: send one, with Content-Type: application/json.")
    if first["type"] == "extra_forbidden":
        return invalid(field, f"{field} is not supported: leave it out.")
    if first["type"] == "missing":
        return invalid(field, f"{field or 'the body'} is missing: send it.")
    shown = repr(first["input"])
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    return invalid(field, f"{field}={shown} is not accepted: {first['msg'].lower()}.")
