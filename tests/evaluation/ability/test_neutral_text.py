from __future__ import annotations

from steer_server.evaluation.ability.neutral_text import PASSAGES


def test_passages_are_short_paragraphs_of_plain_prose() -> None:
    assert len(set(PASSAGES)) == len(PASSAGES) == 24
    for passage in PASSAGES:
        assert 60 <= len(passage.split()) <= 100
        assert passage.endswith(".") and "\n" not in passage and "  " not in passage
        assert not [word for word in (" I ", " you ", "!", "?") if word in passage]
