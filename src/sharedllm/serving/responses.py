"""The plain text form of the Responses API: a request is answered as a chat, and the reply has that API's form."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ..utils.text_files import is_text
from .answering import Answered
from .choice import Piece
from .errors import ServingError
from .messages import Body, JsonSchema, Message, ResponseFormat, Schema, Whole
from .replies import event, extra_of
from .requests import ChatRequest


class TextFormat(Body):
    """In contrast to the chat API the schema's fields are beside its type."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> "TextFormat":
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("schema is missing: send name and schema beside the type")
        return self

    @property
    def as_chat(self) -> ResponseFormat:
        schema = None
        if self.type == "json_schema":
            schema = JsonSchema(name=self.name, schema=self.schema_ or {}, strict=self.strict)
        return ResponseFormat(type=self.type, json_schema=schema)


class TextOptions(Body):
    format: TextFormat | None = None


class InputMessage(Message):
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None


class _AsChat(ChatRequest):
    """A request of this API in the form of the chat API."""

    asked_in: ClassVar[str] = "input"


class ResponsesRequest(Body):
    """Fields as in `requests.Sampled`, under the names of this API."""

    input: Annotated[str | list[InputMessage], Field(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[Whole | None, Field(ge=1, le=2**20)] = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    text: TextOptions | None = None
    stream: bool | None = None
    memory: str | None = None
    budget: Annotated[Whole | None, Field(ge=1)] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("input")
    @classmethod
    def _roles(cls, given: str | list[InputMessage]) -> str | list[InputMessage]:
        if isinstance(given, list) and any(message.role == "tool" or message.tool_calls for message in given):
            raise ValueError("tools are not supported here: use /v1/chat/completions")
        return given

    @field_validator("instructions")
    @classmethod
    def _written(cls, given: str | None) -> str | None:
        if given is not None and not is_text(given):
            raise ValueError("it contains half of a character: send whole characters")
        return given

    @property
    def as_chat(self) -> ChatRequest:
        given = self.input
        messages: list[Message] = [Message(role="user", content=given)] if isinstance(given, str) else [*given]
        if self.instructions:
            messages = [Message(role="system", content=self.instructions), *messages]
        form = self.text.format.as_chat if self.text is not None and self.text.format is not None else None
        return _AsChat(
            model=self.model, messages=messages, max_tokens=self.max_output_tokens, temperature=self.temperature,
            top_p=self.top_p, stream=self.stream, memory=self.memory, budget=self.budget, response_format=form,
        )  # fmt: skip


@dataclass
class ResponsesReply:
    """A response being built; events are numbered."""

    model: str
    request: ResponsesRequest
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    number: int = 0

    @property
    def name(self) -> str:
        return f"resp_{self.id}"

    def whole(self, answered: Answered) -> dict[str, Any]:
        choice = answered.choices[0]
        done = choice.finish != "length"
        usage = {
            "input_tokens": answered.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answered.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answered.prompt_tokens + answered.tokens,
        }
        status = "completed" if done else "incomplete"
        why = None if done else {"reason": "max_output_tokens"}
        message = self._message(status, choice.text)
        return self._of(status, [message]) | {"usage": usage, "incomplete_details": why} | extra_of(answered)

    def first(self) -> list[bytes]:
        begun = self._of("in_progress", [])
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._message("in_progress", None)),
            self._event("response.content_part.added", **self._place, part=_text("")),
        ]

    def piece(self, piece: Piece) -> bytes:
        return self._event("response.output_text.delta", **self._place, delta=piece.text, logprobs=[])

    def last(self, answered: Answered) -> list[bytes]:
        whole, text = self.whole(answered), answered.choices[0].text
        return [
            self._event("response.output_text.done", **self._place, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=_text(text)),
            self._event("response.output_item.done", output_index=0, item=whole["output"][0]),
            self._event(f"response.{whole['status']}", response=whole),
        ]

    def failed(self, error: ServingError) -> bytes:
        """The end of a stream that breaks off."""
        said = error.body["error"]
        return self._event("error", code=said["type"], message=said["message"], param=said["param"])

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self.id}", "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **content: Any) -> bytes:
        self.number += 1
        return event({"type": kind, "sequence_number": self.number - 1, **content}, kind)

    def _message(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_text(text)]
        return {"id": f"msg_{self.id}", "type": "message", "role": "assistant", "status": status, "content": content}

    def _of(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked = self.request
        return {
            "id": self.name, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": None, "instructions": asked.instructions, "max_output_tokens": asked.max_output_tokens,
            "model": self.model, "output": output, "parallel_tool_calls": True, "previous_response_id": None,
            "store": False, "temperature": asked.temperature, "text": {"format": _format(asked)}, "tool_choice": "auto",
            "tools": [], "top_p": asked.top_p, "truncation": "disabled", "usage": None, "metadata": {},
        }  # fmt: skip


def _format(asked: ResponsesRequest) -> dict[str, Any]:
    """The format that was asked for, as it was sent."""
    given = asked.text.format if asked.text is not None else None
    return {"type": "text"} if given is None else given.model_dump(by_alias=True, exclude_unset=True)


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
