"""Responses in the form of OpenAI's API: whole, or piece by piece as server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, StreamingResponse
from transformers import PreTrainedTokenizerBase

from .answering import Answered
from .choice import Choice, Piece
from .errors import ServingError
from .steering import Scored, spelled

DONE = b"data: [DONE]\n\n"


def encoded(content: Any) -> bytes:
    """JSON that every client can read: a lone surrogate, as in a file name that is not UTF-8, becomes a question mark."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


class Json(JSONResponse):
    """A JSON response that may contain any names."""

    def render(self, content: Any) -> bytes:
        return encoded(content)


@dataclass
class Reply:
    """A response being built.

    model  as the client named it. chat: for the chat API instead of plain completions. choices: how many answers
    usage  a stream ends with the token counts
    """

    model: str
    chat: bool
    tokenizer: PreTrainedTokenizerBase
    choices: int = 1
    usage: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    # Characters sent so far of each answer, where log probabilities of plain completions count from.
    sent: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"

    def whole(self, answered: Answered) -> dict[str, Any]:
        """The whole response."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._whole(index, choice) for index, choice in enumerate(answered.choices)]
        return self._of(kind, choices) | usage_of(answered) | extra_of(answered)

    def first(self) -> list[bytes]:
        """The events before the first piece."""
        said = {"role": "assistant", "content": ""}
        return [event(self._part(index, said)) for index in range(self.choices)] if self.chat else []

    def piece(self, piece: Piece) -> bytes:
        said = {"content": piece.text} if self.chat else piece.text
        return event(self._part(piece.choice, said, scored=piece.scored))

    def last(self, answered: Answered) -> list[bytes]:
        """The events after the last piece."""
        events = []
        for index, choice in enumerate(answered.choices):
            if choice.calls:
                events.append(self._part(index, {"tool_calls": self._called(index, choice, streamed=True)}))
            events.append(self._part(index, {} if self.chat else "", choice.finish))
        events[-1] |= extra_of(answered)
        if self.usage:
            events.append(self._of(self._kind, []) | usage_of(answered))
        return [*map(event, events), DONE]

    def failed(self, error: ServingError) -> bytes:
        """The end of a stream that breaks off."""
        return event(error.body) + DONE

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        if not self.chat:
            return self._choice(index, {"text": choice.text}, choice.finish, choice.scored)
        message: dict[str, Any] = {"role": "assistant", "content": choice.text}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": self._called(index, choice)}
        return self._choice(index, {"message": message}, choice.finish, choice.scored)

    def _part(
        self, index: int, said: Any, finish: str | None = None, scored: Sequence[Scored] | None = None
    ) -> dict[str, Any]:
        return self._of(self._kind, [self._choice(index, {"delta" if self.chat else "text": said}, finish, scored)])

    def _choice(
        self, index: int, said: dict[str, Any], finish: str | None, scored: Sequence[Scored] | None
    ) -> dict[str, Any]:
        logprobs = None if scored is None else self._scored(index, scored)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}

    def _scored(self, index: int, scored: Sequence[Scored]) -> dict[str, Any]:
        if self.chat:
            tokens = [
                self._token(one.token, one.logprob) | {"top_logprobs": [self._token(*best) for best in one.likeliest]}
                for one in scored
            ]
            return {"content": tokens, "refusal": None}
        texts, offsets, at = [], [], self.sent.get(index, 0)
        for one in scored:
            texts.append(spelled(self.tokenizer, one.token)[0])
            offsets.append(at)
            at += len(texts[-1])
        self.sent[index] = at
        likeliest = [{self._key(token): value for token, value in one.likeliest} for one in scored]
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in scored],
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }

    def _key(self, token: int) -> str:
        """A token's text, or its bytes if they are a part of a character, as in OpenAI's API."""
        text, codes = spelled(self.tokenizer, token)
        return "bytes:" + "".join(f"\\x{code:02x}" for code in codes) if "\ufffd" in text else text

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text, codes = spelled(self.tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": codes}

    def _called(self, index: int, choice: Choice, streamed: bool = False) -> list[dict[str, Any]]:
        """Calls whose ids follow from the answer's, so that whoever writes the same answer again gives the same ids."""
        return [
            ({"index": number} if streamed else {}) | call.said(f"{self.id}_{index}_{number}")
            for number, call in enumerate(choice.calls)
        ]

    def _of(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.name, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def event(content: dict[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    return (b"" if name is None else f"event: {name}\n".encode()) + b"data: " + encoded(content) + b"\n\n"


def streamed(parts: AsyncIterator[bytes]) -> StreamingResponse:
    """A response of server-sent events."""
    return StreamingResponse(parts, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def usage_of(answered: Answered) -> dict[str, Any]:
    read, written = answered.prompt_tokens, answered.tokens
    return {"usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}


def extra_of(answered: Answered) -> dict[str, Any]:
    return {"sharedllm": answered.extra} if answered.extra else {}
