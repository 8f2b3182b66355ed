"""Calls of tools in the form of a model's chat template.

Every family writes calls in its own form: `<tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>`, `[TOOL_CALLS][{…}]`,
`{"name": …, "parameters": …}`. The form is found by letting the template write a call, so that none is listed here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..prompts import NOTHING, PromptForm
from ..utils.errors import UserError
from .errors import invalid
from .messages import Tool

_NAME, _ARGUMENTS = "get_the_probe", {"probe_key": "probe_value"}
_PROBE = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}
_CALL = {"id": "probe0000", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}


@dataclass(frozen=True)
class Call:
    """One call: a tool's name and its arguments as JSON."""

    name: str
    arguments: str

    def said(self, id: str) -> dict[str, Any]:
        """In the form of OpenAI's API."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{id}", "type": "function", "function": function}


@dataclass(frozen=True)
class CallForm:
    """How a template writes a call.

    begin  what stands before the call's JSON in the model's turn; "" if nothing does
    name, arguments  the keys of the call's name and arguments
    listed  calls are the items of a list
    """

    begin: str
    name: str
    arguments: str
    listed: bool

    @classmethod
    def of(cls, form: PromptForm, field: str = "tools") -> "CallForm":
        """The form of a model's template.

        Raises:
            ServingError: it takes no tools, or writes calls in a form that is not JSON; names the field that uses them.
        """
        why = "the model has no chat template" if not form.chat else "the model's chat template takes none"
        refused = invalid(
            field, f"{field} needs tools, and {why}: leave them out, or serve a model that was made for them."
        )
        if not form.chat:
            raise refused
        user = {"role": "user", "content": NOTHING}
        try:
            before = form.rendered([user], [_PROBE])
            after = form.rendered([user, {"role": "assistant", "content": "", "tool_calls": [_CALL]}], [_PROBE], False)
        except (UserError, TypeError):
            raise refused from None
        if _NAME not in before:
            raise refused
        found = cls._found(after[_common(before, after) :])
        if found is None:
            raise invalid(
                field, f"{field}: the model's chat template writes calls in a form that is not JSON: leave them out."
            )
        return found

    @classmethod
    def _found(cls, turn: str) -> "CallForm | None":
        """The form of the call in a turn."""
        for start, value in _values(turn):
            call = value[0] if isinstance(value, list) and value else value
            if not isinstance(call, dict):
                continue
            names = [key for key, item in call.items() if item == _NAME]
            arguments = [key for key, item in call.items() if _object(item) == _ARGUMENTS]
            if names and arguments:
                return cls(turn[:start].lstrip(), names[0], arguments[0], isinstance(value, list))
        return None

    def schema(self, tools: Sequence[Tool]) -> dict[str, Any]:
        """The JSON schema of one call of one of the tools."""
        calls = []
        for tool in tools:
            parameters = tool.function.parameters or {"type": "object"}
            properties = {self.name: {"const": tool.function.name}, self.arguments: parameters}
            calls.append(
                {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
            )
        schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return {"type": "array", "items": schema, "minItems": 1, "maxItems": 1} if self.listed else schema

    def read(self, text: str, tools: Sequence[Tool]) -> tuple[str, list[Call]]:
        """What a text says before its calls, and the calls of given tools. If there are none, all of it is text."""
        known, mark = {tool.function.name for tool in tools}, self.begin.strip()
        calls, said = [], text
        for start, value in _values(text):
            items = value if isinstance(value, list) else [value]
            found = [call for item in items if (call := self._call(item)) is not None and call.name in known]
            before = text[:start].rstrip()
            # Without its mark a call is one only at the beginning: elsewhere JSON may be an example.
            if not found or not (calls or not before or (mark and before.endswith(mark))):
                continue
            if not calls:
                said = before.removesuffix(mark).rstrip() if mark else before
            calls += found
        return (said, calls) if calls else (text, [])

    def _call(self, value: Any) -> Call | None:
        if not isinstance(value, dict) or not isinstance(value.get(self.name), str):
            return None
        arguments = _object(value.get(self.arguments, {}))
        if not isinstance(arguments, dict):
            return None
        return Call(value[self.name], json.dumps(arguments, ensure_ascii=False))


def _values(text: str) -> list[tuple[int, Any]]:
    """The JSON objects and lists in a text, one after the other, and where they begin."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := min((p for c in "{[" if (p := text.find(c, at)) >= 0), default=-1)) >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        found.append((at, value))
        at = end
    return found


def _object(value: Any) -> Any:
    """A value that may be written as a text of JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _common(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
