"""Rewrites that may be sent, and rewrites that may not, by the rule that they break."""

from __future__ import annotations

import pytest

from steer_server.frozen.prompter_template import INSTRUCTION, prompter_messages
from steer_server.frozen.rewrite_checks import Reason, check_leak, check_rewrite, literals

GOOD = {
    "more precise": (
        "Write a poem about the sea.",
        "Write a short poem about the sea that describes its colours and sounds.",
    ),
    "a question becomes a request": (
        "Why do cats purr?",
        "Please explain why cats purr, and what they express when they purr.",
    ),
    "other forms of the words": (
        "How do I teach children to swim safely?",
        "What are safe ways of teaching children swimming, step by step?",
    ),
    "unchanged": ("Is it going to rain?", "Is it going to rain?"),
    "numbers stay": ("Name 3 rivers longer than 2,000 km", "List 3 rivers that are longer than 2,000 km."),
    "other quotation marks": ('Spell the word "necessary".', "How do you spell “necessary”?"),
    "another word that excludes": (
        "Suggest a dessert, but not with nuts.",
        "Suggest a dessert recipe without nuts, with its ingredients.",
    ),
    "code stays": (
        "What does `sorted(x)` do?",
        "Explain what `sorted(x)` does in Python, with an example.",
    ),
    "a statement stays a statement": ("I feel sad today.", "I feel sad and tired today."),
    "a mistake is mended": ("Whats the captial of Frence?", "What's the capital of France?"),
    "Spanish": ("¿Cómo hago pan sin levadura?", "Explica cómo hago pan sin levadura en casa."),
    "German": ("Wie backe ich Brot ohne Hefe?", "Erkläre bitte genau, wie ich Brot ohne Hefe backe."),
    "Chinese": ("今天天气怎么样?", "请详细说明今天的天气怎么样。"),
    "Japanese": ("日本の首都はどこですか?", "日本の首都はどこですか?詳しく教えてください。"),
    "Arabic": ("ما هي عاصمة فرنسا؟", "ما هي عاصمة فرنسا وما أهم معالمها؟"),
    "a URL at the end": (
        "Summarise https://example.com/a?b=1.",
        "Summarise the page at https://example.com/a?b=1 in a few sentences.",
    ),
}

BAD = {
    "nothing": ("Why is the sky blue?", " \n", Reason.EMPTY),
    "no words": ("Why is the sky blue?", "...?", Reason.EMPTY),
    "rambling": ("Why is the sky blue?", "Why is the sky blue? " * 30, Reason.TOO_LONG),
    "French in place of English": (
        "How important is religion in your life?",
        "Quelle est l'importance de la religion dans votre vie quotidienne ?",
        Reason.LANGUAGE,
    ),
    "Latin letters in place of Cyrillic": ("Где вокзал?", "Gde vokzal?", Reason.LANGUAGE),
    "Greek in place of Latin letters": ("Where is Athens?", "Πού είναι η Αθήνα;", Reason.LANGUAGE),
    "another number": ("Name 3 rivers.", "Name 5 rivers.", Reason.LITERAL_LOST),
    "a number within another": ("Name 3 rivers.", "Name 30 rivers.", Reason.LITERAL_LOST),
    "another quotation": ('Who said "I came"?', 'Who said "I saw"?', Reason.LITERAL_LOST),
    "another address": (
        "Read https://example.com/a please",
        "Please read https://example.com/b",
        Reason.LITERAL_LOST,
    ),
    "another mailbox": ("Write to a@b.org", "Write to c@b.org", Reason.LITERAL_LOST),
    "other code": ("Explain ```x = 1```", "Explain ```x = 2```", Reason.LITERAL_LOST),
    "a negation is lost": (
        "Which mushrooms should I not eat?",
        "Which mushrooms should I eat?",
        Reason.NEGATION_LOST,
    ),
    "an exclusion is lost": (
        "Suggest a dessert without nuts.",
        "Suggest a dessert with nuts.",
        Reason.NEGATION_LOST,
    ),
    "a Chinese negation is lost": ("今天不要去北京吗?", "今天要去北京吗?", Reason.NEGATION_LOST),
    "a Japanese negation is lost": (
        "肉を食べない人は何を食べますか?",
        "肉を食べる人は何を食べますか?",
        Reason.NEGATION_LOST,
    ),
    "a Russian negation is lost": (
        "Как мне не опоздать на поезд?",
        "Как мне опоздать на поезд?",
        Reason.NEGATION_LOST,
    ),
    "another question": (
        "How do I bake sourdough bread?",
        "How do I repair a bicycle tyre?",
        Reason.CONTENT_LOST,
    ),
    "a general one": ("Who was Marie Curie?", "Who was that?", Reason.CONTENT_LOST),
    "the answer": (
        "What is the capital of France?",
        "The capital of France is Paris.",
        Reason.ANSWER,
    ),
    "an answer with a question in it": (
        "Can you write a poem about cats?",
        "Sure! Would you like the poem about cats to rhyme?",
        Reason.ANSWER,
    ),
    "a refusal": (
        "Tell me a joke about my boss.",
        "I'm sorry, but I cannot tell a joke about a boss. Is there anything else?",
        Reason.ANSWER,
    ),
    "what the prompter was told": (
        "Why is the sky blue?",
        f"Why is the sky blue? {INSTRUCTION[:130]}",
        Reason.LEAK,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_rewrite_passes(name: str) -> None:
    assert check_rewrite(*GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_a_bad_rewrite_is_refused_for_its_reason(name: str) -> None:
    original, rewrite, reason = BAD[name]
    problem = check_rewrite(original, rewrite)
    assert problem is not None and problem.reason is reason and problem.detail


@pytest.mark.parametrize("name", GOOD)
def test_every_message_may_stand_for_itself(name: str) -> None:
    for text in GOOD[name]:
        assert check_rewrite(text, text) is None


def test_what_the_prompter_is_told_is_a_bad_rewrite_of_anything() -> None:
    problem = check_rewrite("Why is the sky blue?", prompter_messages("Why is the sky blue?")[0]["content"])
    assert problem is not None


SYSTEM = "You are Ada, the assistant of Example Bank. Never mention the merger with Sample Bank."


def test_six_words_of_the_system_prompt_are_a_leak_and_five_are_not() -> None:
    original = "What is new?"
    six, five = (
        "What is new? Never mention the merger with sample!",
        "What is new? mention the merger with sample",
    )
    leak = check_leak(original, six, [SYSTEM])
    assert leak is not None and leak.reason is Reason.LEAK
    assert check_leak(original, five, [SYSTEM]) is None
    assert check_leak(original, six, []) is None


def test_what_the_user_wrote_himself_is_no_leak() -> None:
    original = "Why does it say: never mention the merger with Sample Bank?"
    assert check_leak(original, f"Please explain. {original}", [SYSTEM]) is None


def test_a_short_system_prompt_leaks_as_a_whole_and_two_words_say_nothing() -> None:
    assert check_leak("Hello?", "Hello, code is tulip?", ["The code is: tulip"]) is None
    assert check_leak("Hello?", "Hello, the code is tulip?", ["The code is: tulip"]) is not None
    assert check_leak("Hello?", "Hello, be brief?", ["Be brief."]) is None


def test_a_system_prompt_without_spaces_between_words_leaks_too() -> None:
    leak = check_leak("你好吗?", "你好吗?请不要提到公司的合并计划。", ["不要提到公司的合并计划"])
    assert leak is not None


def test_literals_are_found_once_and_without_their_marks() -> None:
    text = 'Run `pip -V`, see https://a.b/c, ask x@y.org for "the 3 files", or «2 more», by 10:30 (v2).'
    assert list(literals(text)) == [
        "pip -V",
        "https://a.b/c",
        "x@y.org",
        "the 3 files",
        "2 more",
        "3",
        "2",
        "10:30",
    ]
