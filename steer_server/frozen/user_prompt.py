"""The one message of a conversation that is rewritten: the last of the user's. The others stay as they are.

Content may be text or a list of parts. The texts of several parts are one prompt, in lines; its rewrite takes
the first one's place, and the others go. Images and whatever else is no text stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_server.errors import RequestError

Messages = Sequence[Mapping[str, Any]]
SYSTEM_ROLES = ("system", "developer")
TEXT_TYPES = ("text", "input_text")


def as_messages(messages: Any) -> Messages:
    """A chat request's messages. Raises: RequestError (400) for what is no list of objects."""
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise RequestError(
            "`messages` must be a list of messages.", param="messages", code="invalid_messages"
        )
    return messages


def last_user_text(messages: Messages) -> str | None:
    """What is rewritten; None when no message is the user's, or the last of them has no text."""
    index = _last_user(messages)
    return None if index is None else _text(messages[index])


def with_last_user_text(messages: Messages, text: str) -> list[Mapping[str, Any]]:
    """The same conversation with `text` in its place."""
    index = _last_user(messages)
    assert index is not None
    message = messages[index]
    content: Any = text if isinstance(message["content"], str) else _with_text(message["content"], text)
    return [*messages[:index], {**message, "content": content}, *messages[index + 1 :]]


def system_texts(messages: Messages) -> list[str]:
    """What the user has not written and is not to see."""
    texts = [_text(message) for message in messages if message.get("role") in SYSTEM_ROLES]
    return [text for text in texts if text is not None]


def _last_user(messages: Messages) -> int | None:
    return next((i for i in reversed(range(len(messages))) if messages[i].get("role") == "user"), None)


def _text(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [text for part in content if (text := _part_text(part)) is not None]
    return "\n".join(texts) if texts else None


def _with_text(parts: Sequence[Any], text: str) -> list[Any]:
    found: list[Any] = []
    is_placed = False
    for part in parts:
        if _part_text(part) is None:
            found.append(part)
        elif not is_placed:
            found.append(text if isinstance(part, str) else {**part, "text": text})
            is_placed = True
    return found


def _part_text(part: Any) -> str | None:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in TEXT_TYPES else None
    return part if isinstance(part, str) else None
