"""The requests that a client may send. Fields without effect here are refused, unless their value asks for nothing, so
that a client learns that they are not supported."""

import sys
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..utils.errors import clipped, shown
from ..utils.fields import MOST
from ..utils.json_text import Repeated
from .errors import ServingError, invalid
from .messages import Body, Message, ResponseFormat, Tool, ToolChoice, Whole

# Default number of new tokens.
DEFAULT_TOKENS = 256
# Most answers to one request, and most stops.
MOST_CHOICES = 16
MOST_STOPS = 4

_Penalty = Annotated[float | None, Field(ge=-2, le=2)]


class StreamOptions(Body):
    include_usage: bool | None = None


class Sampled(Body):
    """Fields common to chat and plain completions.

    temperature  0, the default, takes the likeliest token; this model answers best that way
    memory       name of a memory to read from, "" for none; default: the one in the model's name, or the served memory,
                 if there is only one
    budget       most tokens of it; default: the server's
    explain      keep what `GET /v1/explanations/ID` needs, ID being that of the answer
    user, …      name the caller; nothing is done with them
    """

    model: str | None = None
    max_tokens: Annotated[Whole | None, Field(ge=1, le=2**20)] = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    stop: str | list[str] | None = None
    seed: Annotated[Whole | None, Field(ge=-(2**63), le=2**63 - 1)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Whole | None, Field(ge=1, le=MOST_CHOICES)] = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    # Names in JSON are texts.
    logit_bias: dict[Annotated[int, Field(strict=False)], Annotated[float, Field(ge=-100, le=100)]] | None = None
    memory: str | None = None
    budget: Annotated[Whole | None, Field(ge=1)] = None
    explain: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def tokens(self) -> int:
        return self.max_tokens or DEFAULT_TOKENS

    @property
    def choices(self) -> int:
        """How many answers."""
        return self.n or 1

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens to name at each place of the answer; None: no log probabilities."""
        return None

    @property
    def schema_of_text(self) -> dict[str, Any] | None:
        """The JSON schema that the answer keeps to."""
        return None

    @property
    def stops(self) -> tuple[str, ...]:
        """
        Raises:
            ServingError: an empty stop, or more than four.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MOST_STOPS or "" in stops:
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


class ChatRequest(Sampled):
    """asked_in: the field that the messages come from, as the client knows it."""

    asked_in: ClassVar[str] = "messages"
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole | None, Field(ge=1, le=2**20)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole | None, Field(ge=0, le=20)] = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def characters(self) -> int:
        return sum(message.characters for message in self.messages)

    @property
    def tokens(self) -> int:
        return self.max_completion_tokens or super().tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def schema_of_text(self) -> dict[str, Any] | None:
        return None if self.response_format is None else self.response_format.schema_of_text

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def forced(self) -> list[Tool]:
        """The tools of which the model has to call one."""
        if isinstance(self.tool_choice, ToolChoice):
            return [tool for tool in self.offered if tool.function.name == self.tool_choice.function.name]
        return self.offered if self.tool_choice == "required" else []

    def check(self) -> None:
        super().check()
        short, long = self.max_tokens, self.max_completion_tokens
        if short is not None and long is not None and short != long:
            raise invalid(
                "max_tokens", f"max_tokens={short} and max_completion_tokens={long} differ: send one of them."
            )
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", f"top_logprobs={self.top_logprobs} needs logprobs=true: send that too.")
        if self.tool_choice not in (None, "none", "auto") and not self.forced:
            names = ", ".join(tool.function.name for tool in self.tools or []) or "none"
            raise invalid(
                "tool_choice", f"tool_choice names no tool of the request: send it in tools (there: {names})."
            )
        if self.offered and self.schema_of_text is not None:
            raise invalid("response_format", "response_format can't be combined with tools: send one of them.")


class CompletionRequest(Sampled):
    asked_in: ClassVar[str] = "prompt"
    prompt: Annotated[str, Field(min_length=1)]
    logprobs: Annotated[Whole | None, Field(ge=0, le=5)] = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _only(cls, prompt: Any) -> Any:
        """A list of one prompt is that prompt."""
        return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt

    @property
    def characters(self) -> int:
        return len(self.prompt)

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class DocumentRequest(Body):
    """name: checked by `names.check_document`, as that of a file."""

    name: str
    text: Annotated[str, Field(min_length=1)]


class MemoryRequest(Body):
    """name: checked by `names.check_memory`."""

    name: str


class NoQuery(BaseModel):
    """An address that asks for nothing. Completions take any: OpenAI's clients send some, as `beta=true`."""

    model_config = ConfigDict(extra="forbid")


class PassageQuery(NoQuery):
    """start, end: the first character, and the one after the last; default: 10,000 characters."""

    start: Annotated[int, Field(ge=0, le=MOST)] = 0
    end: Annotated[int | None, Field(ge=0, le=MOST)] = None


class UploadQuery(NoQuery):
    """replace: a document of that name."""

    replace: bool = False


def explained(errors: list[Any], body: Any = None, kind: str | None = None) -> ServingError:
    """Pydantic's errors about the first wrong field as field, value and fix.

    body: the request's, as text where it is not JSON. kind: its header Content-Type.
    """
    # Of what may have one of several forms each has its error; the one that got furthest is the form that was meant.
    same = [error for error in errors if error["loc"][:2] == errors[0]["loc"][:2]]
    first = max(same, key=lambda error: len(error["loc"]))
    # The location also names members of a union, which are not fields of the request: names of classes and types.
    where = first["loc"][1:] if first["loc"][:1] in (("body",), ("query",)) else first["loc"]
    # What is not supported is named as the client wrote it.
    last = [str(where[-1])] if where and first["type"] == "extra_forbidden" else []
    parts = [str(p) for p in where[: len(where) - len(last)] if "[" not in str(p) and p != "str"]
    field = ".".join([p for p in parts if not p[:1].isupper()] + last) or None
    no_object = first["type"] in ("model_type", "model_attributes_type", "dict_type")
    if first["type"] == "json_invalid":
        return _no_json(body, first["loc"][1], first["ctx"]["error"])
    if no_object and field is None:
        what = "is not a JSON object"
        if isinstance(first["input"], bytes):  # so arrives what is not declared as JSON
            what = f"has {'no Content-Type' if kind is None else f'Content-Type {clipped(kind)}'}"
        return invalid(None, f"the body {what}: send one JSON object, with Content-Type: application/json.")
    if first["type"] == "extra_forbidden":
        return invalid(field, f"{field} is not supported: leave it out.")
    if first["type"] == "missing":
        *place, name = first["loc"]
        others = [str(e["loc"][-1]) for e in errors if e["type"] == "extra_forbidden" and [*e["loc"][:-1]] == place]
        near = get_close_matches(str(name), others, n=1)
        fix = f"did you mean it by {clipped(near[0])}?" if near else "send it."
        return invalid(field, f"{field or 'the body'} is missing: {fix}")
    given = shown(first["input"])
    if no_object:
        return invalid(field, f"{field}={given} is not a JSON object: send one.")
    if first["type"] == "too_short":
        return invalid(field, f"{field}={given} is empty: send at least {first['ctx']['min_length']}.")
    if first["type"].startswith("bool_"):
        return invalid(field, f"{field}={given} is not a boolean: send true or false.")
    reason = first["msg"].removeprefix("Value error, ")
    return invalid(field, f"{field or 'the body'}={given} is not accepted: {reason[:1].lower()}{reason[1:]}.")


def _no_json(body: str, place: int, reason: str) -> ServingError:
    """place: the first character that can't be parsed."""
    line, column = body.count("\n", 0, place) + 1, place - body.rfind("\n", 0, place)
    # Some of Python's reasons expect the place behind them.
    reason = (reason[:1].lower() + reason[1:]).removesuffix(" at").removesuffix(" starting")
    return invalid(None, f"the body is not JSON (line {line:,}, column {column:,}: {reason}): send one JSON object.")


def unread(cause: ValueError | RecursionError, encoding: str) -> ServingError:
    """What is wrong with a body that can't be parsed, and the fix.

    cause: what the parser raised. encoding: the request's header Content-Encoding, "" for none.
    """
    if isinstance(cause, Repeated):
        return invalid(cause.key, f"{clipped(cause.key)} is in one JSON object twice: send it once.")
    raw = cause.object if isinstance(cause, UnicodeDecodeError) else b""
    if encoding.strip().lower() not in ("", "identity") or raw[:2] == b"\x1f\x8b":
        why = f" (Content-Encoding: {encoding[:40]})" if encoding else " by gzip"
        return invalid(None, f"the body is compressed{why}: send one JSON object in UTF-8, not compressed.")
    if isinstance(cause, UnicodeDecodeError):
        what = f"is not text in UTF-8 (byte {cause.start:,} is {raw[cause.start]:#04x})"
    elif isinstance(cause, RecursionError):
        what = "is nested too deeply"
    else:  # Python's limit, beyond which it converts no digits
        what = f"has a whole number of more than {sys.get_int_max_str_digits():,} digits"
    return invalid(None, f"the body {what}: send one JSON object in UTF-8, not compressed.")
