"""What an answer is told by, and drawn with: the same at every replica that is asked for it."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from .requests import ChatRequest, CompletionRequest


@dataclass(frozen=True)
class Identity:
    """id, created: of the answer. seed: of a sampled answer whose request names none; None draws it anew."""

    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    seed: int | None = None

    @classmethod
    def repeatable(cls) -> "Identity":
        """One with which a request gives the same answer each time that it is asked."""
        return cls(seed=secrets.randbelow(2**31))

    @classmethod
    def of(cls, request: Request) -> "Identity":
        """That which came with a request, or a new one."""
        return request.scope.get("state", {}).get("identity") or cls()

    def seeded(self, body: ChatRequest | CompletionRequest) -> ChatRequest | CompletionRequest:
        """The request with the seed, unless it names one."""
        return body if self.seed is None or body.seed is not None else body.model_copy(update={"seed": self.seed})

    @property
    def named(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created}
