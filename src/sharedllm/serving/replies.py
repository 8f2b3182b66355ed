"""Responses in the form of OpenAI's API: whole, or piece by piece as server-sent events."""

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from .answering import Answered

DONE = b"data: [DONE]\n\n"


def encoded(content: Any) -> bytes:
    """JSON that every client can read: a lone surrogate, as in a file name that is not UTF-8, becomes a question mark."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


class Json(JSONResponse):
    """A JSON response that may contain any names."""

    def render(self, content: Any) -> bytes:
        return encoded(content)


@dataclass(frozen=True)
class Reply:
    """A response being built. chat: for the chat API instead of plain completions."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answered: Answered) -> dict[str, Any]:
        """The whole response."""
        said = {"message": {"role": "assistant", "content": answered.text}} if self.chat else {"text": answered.text}
        kind = "chat.completion" if self.chat else "text_completion"
        return self._of(kind, [self._choice(said, answered.finish)]) | _usage(answered) | _extra(answered)

    def first(self) -> list[dict[str, Any]]:
        """The events before the first piece."""
        return [self._part({"role": "assistant", "content": ""})] if self.chat else []

    def piece(self, text: str) -> dict[str, Any]:
        return self._part({"content": text}) if self.chat else self._part(text)

    def last(self, answered: Answered, usage: bool) -> list[dict[str, Any]]:
        """The events after the last piece; usage: include the token counts."""
        end = self._part({} if self.chat else "", answered.finish) | _extra(answered)
        return [end, self._of(self._kind, []) | _usage(answered)] if usage else [end]

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _part(self, said: Any, finish: str | None = None) -> dict[str, Any]:
        return self._of(self._kind, [self._choice({"delta" if self.chat else "text": said}, finish)])

    def _choice(self, said: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish}

    def _of(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(content) + b"\n\n"


def _usage(answered: Answered) -> dict[str, Any]:
    read, written = answered.prompt_tokens, answered.tokens
    return {"usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}


def _extra(answered: Answered) -> dict[str, Any]:
    return {"sharedllm": answered.extra} if answered.extra else {}
