"""A statement is the end of the system prompt, whatever form that has."""

from __future__ import annotations

from steer_server.frozen.statement import with_statement

USER = {"role": "user", "content": "Hello"}


def test_it_becomes_the_system_prompt() -> None:
    assert with_statement([USER], "Be calm.") == [{"role": "system", "content": "Be calm."}, USER]


def test_it_follows_the_clients_own() -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER]
    assert with_statement(messages, "Be calm.")[0]["content"] == "Be brief.\n\nBe calm."
    assert messages[0]["content"] == "Be brief."


def test_it_is_a_part_of_its_own_among_parts() -> None:
    parts = [{"type": "text", "text": "Be brief."}]
    (first, _) = with_statement([{"role": "developer", "content": parts}, USER], "Be calm.")
    assert first["content"] == [*parts, {"type": "text", "text": "Be calm."}]
