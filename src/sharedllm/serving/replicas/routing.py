"""What the front reads from a request: the memory that it names, and whether it may be asked twice."""

import json
from typing import Any

QUESTIONS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
# What every replica can answer at once, and what costs them little.
LISTS = ("/v1/models", "/v1/memories")
DOCUMENTS = "/v1/memories/"


def memory_named(path: str, body: bytes, model: str) -> str:
    """The memory that a request names, in its path, in `memory` or in `model`; "" for none, and for what is no request.

    Args:
        model: the name of the served model.
    """
    if path.startswith(DOCUMENTS):
        return path.removeprefix(DOCUMENTS).partition("/")[0]
    content = _content(body) if path in QUESTIONS else {}
    memory, named = content.get("memory"), content.get("model")
    if isinstance(memory, str):
        return memory
    if isinstance(named, str) and named.startswith(f"{model}:"):
        return named.removeprefix(f"{model}:")
    return ""


def is_list(method: str, path: str) -> bool:
    return method == "GET" and (path in LISTS or path.startswith("/v1/models/"))


def repeatable(method: str, path: str) -> bool:
    """Whether a request changes nothing, so that asking it twice does no harm."""
    return method in ("GET", "HEAD", "OPTIONS") or path in QUESTIONS


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
