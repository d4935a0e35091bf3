from __future__ import annotations

from typing import Any

import pytest

from steer_server.errors import RequestError
from steer_server.frozen.user_prompt import as_messages, last_user_text, system_texts, with_last_user_text

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, "name": "ann"}


def test_the_last_user_message_is_rewritten_wherever_it_stands() -> None:
    messages = [
        {"role": "system", "content": "s"},
        user("first"),
        {"role": "assistant", "content": "a"},
        user("second"),
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "content": "t"},
    ]
    assert last_user_text(messages) == "second"
    changed = with_last_user_text(messages, "new")
    assert changed[3] == user("new") and changed[:3] + changed[4:] == messages[:3] + messages[4:]
    assert messages[3] == user("second")


def test_of_parts_the_texts_are_one_prompt_and_the_others_stay() -> None:
    parts = [IMAGE, {"type": "text", "text": "one", "x": 1}, IMAGE, {"type": "text", "text": "two"}]
    assert last_user_text([user(parts)]) == "one\ntwo"
    (changed,) = with_last_user_text([user(parts)], "new")
    assert changed["content"] == [IMAGE, {"type": "text", "text": "new", "x": 1}, IMAGE]


def test_strings_among_the_parts_are_text() -> None:
    assert last_user_text([user(["one", IMAGE])]) == "one"
    assert with_last_user_text([user(["one", IMAGE])], "new")[0]["content"] == ["new", IMAGE]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "s"}],
        [user("before"), user([IMAGE])],
        [user(None)],
        [user([{"type": "refusal", "text": "no"}])],
        [{"role": "user"}],
    ],
)
def test_without_text_there_is_nothing_to_rewrite(messages: list[dict[str, Any]]) -> None:
    assert last_user_text(messages) is None


def test_system_texts_are_what_user_and_assistant_have_not_written() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d"}]},
        user("u"),
        {"role": "assistant", "content": "a"},
    ]
    assert system_texts(messages) == ["s", "d"]


@pytest.mark.parametrize("messages", [None, [], "hello", {"role": "user"}, ["hello"]])
def test_what_is_no_list_of_messages_is_refused(messages: Any) -> None:
    with pytest.raises(RequestError) as caught:
        as_messages(messages)
    assert caught.value.param == "messages"
