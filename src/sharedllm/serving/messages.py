"""The messages and tools of a chat request, as OpenAI's clients send them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..utils.text_files import is_text

# Most levels of a call's arguments, of a tool's parameters and of a schema: templates write them, a level a recursion.
LEVELS = 100
_DEEP = f"nested in more than {LEVELS} levels: send flatter ones"

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
    "truncation": ("disabled",),
}


def asks_for_nothing(field: str, value: Any) -> bool:
    """Whether a field's value asks for nothing, so that clients that always send it get their answer."""
    # 0 is not empty: logprobs=0 asks for something.
    return value is None or value is False or value in ("", [], {}) or value in _NOTHING.get(field, ())


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# A whole number; 4.0 is one too, as in JSON Schema.
Whole = Annotated[int, BeforeValidator(_whole)]


class Body(BaseModel):
    # strict: true is no number, and "5" and "yes" are texts. Of NaN the limits of a number would tell nothing.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, content: Any) -> Any:
        """Drop unknown fields that ask for nothing."""
        if not isinstance(content, dict):
            return content
        if not all(is_text(k) for k in content):
            raise ValueError("the name of a field contains half of a character")
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {k: v for k, v in content.items() if k in known or not asks_for_nothing(k, v)}


# Parts of messages that are no text, by what their types have in common.
_NO_TEXT = {"image": "images are", "audio": "audio is", "file": "files are"}


class TextPart(Body):
    type: Literal["text", "input_text", "output_text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _only(cls, kind: Any) -> Any:
        for word, what in _NO_TEXT.items():
            if word in str(kind):
                raise ValueError(f"{what} not supported: send text")
        return kind


def _inside(value: Any) -> Iterable[Any]:
    """The values in an object or a list; no others hold any."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _flat(value: Any) -> Any:
    """
    Raises:
        ValueError: it has more levels than templates write.
    """
    level = [value]
    for _ in range(LEVELS):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(_DEEP)
    return value


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call.

    text   as they were sent
    value  as chat templates take them: what the text says where it is JSON, else the text
    """

    text: str
    value: Any

    @classmethod
    def of(cls, text: Any) -> "Arguments":
        """
        Raises:
            ValueError: it is no text, or JSON of more levels than templates write.
        """
        if not isinstance(text, str):
            raise ValueError("input should be a valid string")
        try:
            value = json.loads(text or "{}")
        except RecursionError:
            raise ValueError(_DEEP) from None
        except ValueError:
            return cls(text, text)
        return cls(text, _flat(value))


class CalledFunction(Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[Arguments, BeforeValidator(Arguments.of)] = Field(default_factory=lambda: Arguments.of("{}"))


class ToolCall(Body):
    """A call that the model made earlier in the conversation."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    @property
    def turn(self) -> dict[str, Any]:
        """In the form of chat templates."""
        called = self.function
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": called.name, "arguments": called.arguments.value},
        }


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, BeforeValidator(_flat)] = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function

    @property
    def described(self) -> dict[str, Any]:
        """In the form of chat templates."""
        function = self.function
        parameters = function.parameters or {"type": "object", "properties": {}}
        said = {"name": function.name, "description": function.description or "", "parameters": parameters}
        return {"type": "function", "function": said}


class NamedFunction(Body):
    name: str


class ToolChoice(Body):
    type: Literal["function"]
    function: NamedFunction


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] = ""
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _empty(cls, content: Any) -> Any:
        """Clients send an empty answer back as null."""
        return "" if content is None else content

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    @property
    def characters(self) -> int:
        return len(self.text) + sum(len(call.function.arguments.text) for call in self.tool_calls or [])

    @property
    def turn(self) -> dict[str, Any]:
        """In the form of chat templates."""
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text}
        if self.tool_calls:
            turn["tool_calls"] = [call.turn for call in self.tool_calls]
        if self.role == "tool":
            turn |= {"tool_call_id": self.tool_call_id or "", "name": self.name or ""}
        return turn


def _object(schema: Any) -> Any:
    """The schemas true and false as JSON schema defines them: anything and nothing."""
    if schema is False:
        raise ValueError("the schema false allows no answer: send one that allows some")
    return {} if schema is True else _flat(schema)


Schema = Annotated[dict[str, Any], BeforeValidator(_object)]


class JsonSchema(Body):
    """strict: accepted; a schema is always kept to."""

    name: str | None = None
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing: send name and schema in it")
        return self

    @property
    def schema_of_text(self) -> dict[str, Any] | None:
        """The schema that the answer keeps to; None for plain text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.schema_
