from __future__ import annotations

from steer_server.frozen.languages import main_script, other_language

ENGLISH = "How can I make my neighbours understand that I need quiet at night?"
FRENCH = "Comment faire comprendre à mes voisins que j'ai besoin de calme la nuit ?"


def test_two_clear_languages_are_told_apart() -> None:
    assert other_language(ENGLISH, FRENCH) == "fr"
    assert other_language(FRENCH, ENGLISH) == "en"
    assert other_language("今天的天气怎么样,会下雨吗?", "今日の天気はどうですか、雨が降りますか?") == "ja"


def test_one_language_is_one_language() -> None:
    assert other_language(ENGLISH, "Which words make a neighbour see that I need it quiet?") is None
    assert other_language(FRENCH, "Que dire à mes voisins pour qu'ils respectent mon calme ?") is None


def test_short_texts_are_not_judged_but_by_their_script() -> None:
    assert other_language("Bonjour", "Hello") is None
    assert other_language("Hello", "Привет") == "CYRILLIC"
    assert other_language("2 + 2 =", "Hello") is None


def test_the_main_script_is_most_letters() -> None:
    assert main_script("Say 日本 to them") == "LATIN"
    assert main_script("日本語でお願いします OK") == "CJK"
    assert main_script("123 !") is None
