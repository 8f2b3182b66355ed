"""Chats in JSON, as programs export them: the messages in order, each with its speaker.

Understood are lists of messages, alone or in an object (OpenAI's `messages`, Claude's `chat_messages`, ShareGPT's
`conversations`, Slack, Telegram, Discord), and ChatGPT's `mapping`, a tree of messages of which the last branch is read.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..utils.errors import clipped
from .extract import Part, grouped

SPEAKERS = ("role", "sender", "from", "author", "user_profile", "user", "speaker", "username")
TEXTS = ("content", "text", "value", "message", "body")
TIMES = ("create_time", "created_at", "timestamp", "date", "ts")
LISTS = ("messages", "chat_messages", "conversations", "conversation", "turns")
TITLES = ("title", "name", "subject", "topic")


def conversation(value: Any) -> tuple[str, list[Mapping]] | None:
    """Title and messages of a chat; None if the value is none."""
    if isinstance(value, list):
        return ("", _messages(value)) if _messages(value) else None
    if not isinstance(value, Mapping):
        return None
    title = next((value[n] for n in TITLES if isinstance(value.get(n), str) and value[n].strip()), "")
    if isinstance(value.get("mapping"), Mapping):
        return title, _branch(value)
    for name in LISTS:
        if isinstance(value.get(name), list) and (found := _messages(value[name])):
            return title, found
    return None


def conversations(value: Any) -> list[tuple[str, list[Mapping]]]:
    """The chats of an export; [] if it is none."""
    one = conversation(value)
    if one is not None:
        return [one]
    if not isinstance(value, list) or not value:
        return []
    found = [conversation(entry) for entry in value]
    return [chat for chat in found if chat is not None] if all(chat is not None for chat in found) else []


def parts(chats: list[tuple[str, list[Mapping]]]) -> Iterator[Part]:
    """The messages of chats; places are messages, and the titles of chats if there are several."""
    for number, (title, messages) in enumerate(chats, 1):
        before = ""
        if len(chats) > 1:
            line = " ".join(title.split())
            before = f'chat "{clipped(line, 60)}", ' if line else f"chat {number}, "
        said = [(i, _line(message)) for i, message in enumerate(messages, 1)]
        first = next((i for i, (_, text) in enumerate(said) if text), None)
        if title and first is not None:
            said[first] = (said[first][0], f"{title}\n\n{said[first][1]}")
        yield from grouped("message", said, before)


def _messages(values: list) -> list[Mapping]:
    """The list, if most of its entries have a speaker and a text; else []."""
    good = [v for v in values if isinstance(v, Mapping) and speaker(v) and text(v) is not None]
    return [v for v in values if isinstance(v, Mapping)] if good and 2 * len(good) > len(values) else []


def _branch(chat: Mapping) -> list[Mapping]:
    """The messages on the way from the root of a tree to its current message."""
    nodes: dict[str, Mapping] = {name: node for name, node in chat["mapping"].items() if isinstance(node, Mapping)}
    at: Any = chat.get("current_node")
    if not isinstance(at, str) or at not in nodes:
        at = next((name for name in reversed(nodes) if not nodes[name].get("children")), None)
    found, seen = [], set()
    while isinstance(at, str) and at in nodes and at not in seen:
        seen.add(at)
        if isinstance(nodes[at].get("message"), Mapping):
            found.append(nodes[at]["message"])
        at = nodes[at].get("parent")
    # System messages of an export are settings, mostly empty.
    return [m for m in reversed(found) if speaker(m) != "system"]


def speaker(message: Mapping) -> str:
    """Who says a message; "" if it is not known."""
    for name in SPEAKERS:
        value = message.get(name)
        if isinstance(value, Mapping):
            value = next(
                (value[n] for n in ("role", "real_name", "name", "nickname") if isinstance(value.get(n), str)), None
            )
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def text(message: Mapping) -> str | None:
    """What a message says; None if it has no field for that."""
    for name in TEXTS:
        if name in message and (said := _flat(message[name])) is not None:
            return said
    return None


def _flat(value: Any) -> str | None:
    """The text of a text, of a list of texts and blocks, or of a block; what is no text is left out."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_flat(entry) or "" for entry in value)
    if isinstance(value, Mapping):
        if isinstance(value.get("parts"), list):
            return "\n".join(filter(None, (_flat(entry) for entry in value["parts"])))
        return next((value[n] for n in ("text", "content") if isinstance(value.get(n), str)), "")
    return None


def _line(message: Mapping) -> str:
    said = (text(message) or "").strip()
    if not said:
        return ""
    when = _when(message)
    return f"{f'[{when}] ' if when else ''}{speaker(message) or 'unknown'}: {said}\n\n"


def _when(message: Mapping) -> str:
    """Day and minute of a message; "" if it does not say."""
    for name in TIMES:
        value = message.get(name)
        try:
            if isinstance(value, str) and "T" in value:
                return value[:16].replace("T", " ")
            if value is not None and not isinstance(value, bool) and float(value) > 1e8:
                seconds = float(value) / (1000 if float(value) > 1e11 else 1)
                return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
        except (TypeError, ValueError, OverflowError, OSError):
            continue
    return ""
